"""What a language model learns from packed blocks: masked tokens, or the next one. Only what is predicted is decoded."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from transfer_learning.blocks.devices import to_device
from transfer_learning.blocks.extraction import arithmetic
from transfer_learning.blocks.language.model import LanguageModel
from transfer_learning.blocks.language.packing import Blocks, Frame, attention_mask
from transfer_learning.blocks.memory import in_halves
from transfer_learning.blocks.train_loop import evaluation_batches
from transfer_learning.errors import BadInput

MASKED, RANDOM = 0.8, 0.1
"""Of the chosen tokens 80% become the mask, 10% a random token, 10% stay as they are (Devlin et al. 2019)."""

KEPT_BLOCKS = 4096
"""Blocks whose choice is kept in memory: it is needed once for the count of an effective batch and once for the loss."""

LARGEST_EXPONENT = 700.0
"""Beyond it a perplexity is no number any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """What a model reads of some blocks, and what it must predict there."""

    ids: NDArray[np.int32]
    """(rows, length)."""
    places: NDArray[np.int64]
    """Whose states are decoded: numbers in the flattened (rows x length), ascending."""
    targets: NDArray[np.int64]
    """The token to predict at each of them."""


Draw = Callable[[Sequence[int], int], Drawn]
"""(blocks, epoch) -> what is read and what must be predicted: a function of its arguments alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that masking needs to know."""

    mask: int
    special: NDArray[np.bool_]
    """By token: never chosen."""

    @property
    def ordinary(self) -> NDArray[np.int64]:
        """Every token that is not special: a random one is drawn from them."""
        return np.flatnonzero(~self.special)


@dataclasses.dataclass
class LanguageExamples:
    """Blocks as the train loop takes them; a row is a block.

    Args:
        language: the model, on its device.
        blocks: packed documents.
        draw: the objective.
        device: where the model lies.
        precision: ``fp32`` or ``bf16``.
    """

    language: LanguageModel
    blocks: Blocks
    draw: Draw
    device: str
    precision: str
    epoch: int = 0
    """Set at the start of each: what is drawn anew follows from it."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each block, all the same."""
        return [self.blocks.length] * len(self.blocks)

    def losses(self, rows: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return the sum of the cross-entropies of all that is predicted in some blocks."""
        return (self._losses(rows).sum(),)

    def weights(self, rows: Sequence[int]) -> tuple[float, ...]:
        """Return how many tokens are predicted in some blocks."""
        return (float(len(self.draw(rows, self.epoch).targets)),)

    def evaluate(self, poll: Callable[[], None]) -> dict[str, float]:
        """Return mean ``loss`` for each predicted token, and ``perplexity``, its exponential."""
        total, count = 0.0, 0
        with torch.inference_mode():
            for rows in evaluation_batches(self.lengths):
                poll()
                losses = in_halves(self._losses, rows)
                total, count = total + float(losses.sum()), count + len(losses)
        return {"loss": total / count, "perplexity": perplexity(total / count)}

    def _losses(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the cross-entropy of each prediction, fp32 (predictions)."""
        drawn = self.draw(rows, self.epoch)
        batch = batch_of(self.blocks, rows, drawn.ids, self.language, self.device)
        with arithmetic(self.device, self.precision):
            states = self.language.states(batch).flatten(0, 1)
            logits = self.language.decode(states[to_device(drawn.places, self.device)])
        return functional.cross_entropy(logits.float(), to_device(drawn.targets, self.device), reduction="none")


@dataclasses.dataclass
class PairedExamples(LanguageExamples):
    """Pairs of segments: masked tokens, and whether a pair is spoilt; the loss is the sum of both means (Devlin et al. 2019)."""

    def weights(self, rows: Sequence[int]) -> tuple[float, ...]:
        """Return how many tokens are predicted in some pairs, and how many pairs there are."""
        return (*super().weights(rows), float(len(rows)))

    def losses(self, rows: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return the sums of the cross-entropies of tokens and of pairs."""
        tokens, pairs, _ = self._of(rows)
        return tokens.sum(), pairs.sum()

    def evaluate(self, poll: Callable[[], None]) -> dict[str, float]:
        """Return ``loss``, ``perplexity`` of the tokens, and ``pair_accuracy``."""
        total = pair_total = 0.0
        count = right = 0
        with torch.inference_mode():
            for rows in evaluation_batches(self.lengths):
                poll()
                tokens, pairs, correct = self._of(rows)
                total, count = total + float(tokens.sum()), count + len(tokens)
                pair_total, right = pair_total + float(pairs.sum()), right + int(correct.sum())
        mean, number = total / count, len(self.blocks)
        return {"loss": mean + pair_total / number, "perplexity": perplexity(mean), "pair_accuracy": right / number}

    def _of(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return cross-entropies by predicted token and by pair, and which pairs were told right."""
        assert self.blocks.labels is not None
        drawn = self.draw(rows, self.epoch)
        labels = to_device(self.blocks.labels[list(rows)], self.device)
        with arithmetic(self.device, self.precision):
            states, pooled = self.language.states_and_pooled(batch_of(self.blocks, rows, drawn.ids, self.language, self.device))
            logits = self.language.decode(states.flatten(0, 1)[to_device(drawn.places, self.device)])
            told = self.language.compare(pooled).float()
        targets = to_device(drawn.targets, self.device)
        tokens = functional.cross_entropy(logits.float(), targets, reduction="none")
        return tokens, functional.cross_entropy(told, labels, reduction="none"), told.argmax(dim=-1) == labels


def batch_of(
    blocks: Blocks, rows: Sequence[int], ids: NDArray[np.int32], language: LanguageModel, device: str
) -> dict[str, torch.Tensor]:
    """Return what a model reads of some blocks: tokens, positions that start anew in each piece, and the mask between pieces."""
    numbers = to_device(blocks.pieces[list(rows)], device)
    segments = None if blocks.segments is None else blocks.segments[list(rows)].astype(np.int64)
    return {
        **({} if segments is None else {"token_type_ids": to_device(segments, device)}),
        "input_ids": to_device(ids.astype(np.int64), device),
        "position_ids": to_device(blocks.positions(rows) + language.first_position, device),
        "attention_mask": attention_mask(numbers, causal=language.causal),
    }


def masked(
    blocks: Blocks, vocabulary: Vocabulary, share: float, seed: int, hidden: tuple[float, float] = (MASKED, RANDOM)
) -> Draw:
    """Choose a share of each block's tokens and hide most of them (masked language modelling, Devlin et al. 2019).

    What is chosen in a block, and what it becomes, is a function of (seed, epoch, block): neither the micro-batch nor a resume
    changes it, and each epoch draws anew. The number is the share of the tokens that are not special, rounded up or down at
    random so that the mean is exact, and at least one. ``hidden`` are the shares of the chosen that become the mask and a random
    token.
    """
    ordinary = vocabulary.ordinary

    @functools.lru_cache(maxsize=KEPT_BLOCKS)
    def choose(block: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        random = np.random.Generator(np.random.PCG64([seed, epoch, block]))
        ids = blocks.ids[block].copy()
        candidates = np.flatnonzero(~vocabulary.special[ids])
        wanted = max(1, int(share * len(candidates) + random.random()))
        places = np.sort(random.choice(candidates, min(wanted, len(candidates)), replace=False))
        fate = random.random(len(places))
        ids[places[fate < hidden[0]]] = vocabulary.mask
        replaced = places[(fate >= hidden[0]) & (fate < sum(hidden))]
        ids[replaced] = random.choice(ordinary, len(replaced))
        return places, ids

    def draw(rows: Sequence[int], epoch: int) -> Drawn:
        chosen = [choose(int(row), epoch) for row in rows]
        places = np.concatenate([at + number * blocks.length for number, (at, _) in enumerate(chosen)])
        return Drawn(np.stack([ids for _, ids in chosen]), places, blocks.ids[list(rows)].reshape(-1)[places].astype(np.int64))

    return draw


def next_token(blocks: Blocks) -> Draw:
    """Predict each token of a piece from those before it (causal language modelling, Radford et al. 2018)."""

    def draw(rows: Sequence[int], epoch: int) -> Drawn:  # noqa: ARG001 - nothing is drawn
        ids, numbers = blocks.ids[list(rows)], blocks.pieces[list(rows)]
        has_next = np.zeros(ids.shape, dtype=bool)
        has_next[:, :-1] = (numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, :-1] > 0)
        places = np.flatnonzero(has_next)
        return Drawn(ids, places, ids.reshape(-1)[places + 1].astype(np.int64))

    return draw


def frame_of(language: LanguageModel) -> Frame:
    """Return the special tokens around each piece of a document.

    Raises:
        BadInput: the tokenizer lacks one that the objective needs.
    """
    tokenizer = language.tokenizer
    if language.causal:
        end = tokenizer.eos_token_id
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
        _require({"end-of-text": end}, language.objective)
        return Frame(first, end, tokenizer.pad_token_id, last_of_each=False)
    needed = {"classification": tokenizer.cls_token_id, "separator": tokenizer.sep_token_id, "mask": tokenizer.mask_token_id}
    _require(needed, language.objective)
    return Frame(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, last_of_each=True)


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Return what masking needs to know of a tokenizer."""
    special = np.zeros(len(tokenizer), dtype=bool)
    special[tokenizer.all_special_ids] = True
    return Vocabulary(int(tokenizer.mask_token_id), special)


def learnable(blocks: Blocks, vocabulary: Vocabulary) -> Blocks:
    """Return the blocks in which there is a token to choose.

    Raises:
        BadInput: there is none.
    """
    kept = blocks.select(np.asarray((~vocabulary.special[blocks.ids]).any(axis=1)))
    if not len(kept):
        what = "every token of the corpus is unknown to the tokenizer"
        raise BadInput("TOKENIZER", what, "use a base model that knows this alphabet, or train from scratch")
    return kept


def perplexity(loss: float) -> float:
    """Return the exponential of a mean cross-entropy."""
    return math.exp(min(loss, LARGEST_EXPONENT))


def _require(needed: dict[str, int | None], objective: str) -> None:
    if lacking := [name for name, number in needed.items() if number is None]:
        what = f"the tokenizer has no {' and no '.join(lacking)} token, and {objective} needs it"
        raise BadInput("TOKENIZER", what, "use the tokenizer of a model that was trained so")
