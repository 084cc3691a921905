"""Replaced token detection (Clark et al. 2020): a small generator fills masked places by sampling, and every token is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from transfer_learning.blocks.devices import to_device
from transfer_learning.blocks.extraction import arithmetic
from transfer_learning.blocks.language.generator import GENERATOR
from transfer_learning.blocks.language.objectives import Drawn, LanguageExamples, batch_of, perplexity
from transfer_learning.blocks.train_loop import evaluation_batches

ALL_HIDDEN = (1.0, 0.0)
"""Every chosen token becomes the mask, none a random one: the generator replaces them."""

DISCRIMINATOR_WEIGHT = 50.0
"""Of the discriminator's mean loss beside the generator's (Clark et al. 2020)."""

SAMPLING = 1
"""Tells the random numbers of the samples from those of the choice, which have the same seed, epoch and block."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """What both models made of some blocks."""

    generated: torch.Tensor
    """The generator's cross-entropy at each chosen place."""
    ids: torch.Tensor
    """Tokens with the samples in them, int64 (rows, length)."""
    replaced: torch.Tensor
    """Whether a token is another one than it was, by token that is no padding; a sample that equals the original is original."""
    logits: torch.Tensor
    """The discriminator's, for the same tokens; above 0 it says replaced."""

    def losses(self) -> torch.Tensor:
        """Return the discriminator's cross-entropy at each token."""
        return functional.binary_cross_entropy_with_logits(self.logits, self.replaced.float(), reduction="none")


@dataclasses.dataclass
class ReplacedExamples(LanguageExamples):
    """Blocks for a discriminator with its generator; samples are a function of the weights and of (seed, epoch, block)."""

    seed: int = 0

    def weights(self, rows: Sequence[int]) -> tuple[float, ...]:
        """Return how many tokens are chosen in some blocks, and how many are judged."""
        return (*super().weights(rows), float((self.blocks.pieces[list(rows)] > 0).sum()))

    def losses(self, rows: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return the sum of the generator's losses, and 50 times that of the discriminator's."""
        judged = self.judge(rows)
        return judged.generated.sum(), DISCRIMINATOR_WEIGHT * judged.losses().sum()

    def evaluate(self, poll: Callable[[], None]) -> dict[str, float]:
        """Return ``loss``, the generator's ``perplexity``, and ``token_accuracy``, the share of tokens that are told right."""
        generated = told = 0.0
        chosen = tokens = right = 0
        with torch.inference_mode():
            for rows in evaluation_batches(self.lengths):
                poll()
                judged = self.judge(rows)
                generated, chosen = generated + float(judged.generated.sum()), chosen + len(judged.generated)
                told, tokens = told + float(judged.losses().sum()), tokens + len(judged.logits)
                right += int(((judged.logits > 0) == judged.replaced).sum())
        loss = generated / chosen + DISCRIMINATOR_WEIGHT * told / tokens
        return {"loss": loss, "perplexity": perplexity(generated / chosen), "token_accuracy": right / tokens}

    def judge(self, rows: Sequence[int]) -> Judged:
        """Run generator and discriminator on some blocks; no gradient goes through the samples."""
        model, drawn = self.language.model, self.draw(rows, self.epoch)
        generator = getattr(model, GENERATOR)
        places = to_device(drawn.places, self.device)
        batch = batch_of(self.blocks, rows, drawn.ids, self.language, self.device)
        with arithmetic(self.device, self.precision):
            states = generator.base_model(**batch).last_hidden_state.flatten(0, 1)[places]
            guessed = generator.generator_lm_head(generator.generator_predictions(states)).float()
        originals = to_device(self.blocks.ids[list(rows)].astype(np.int64), self.device)
        ids = originals.flatten().scatter(0, places, self._sample(guessed.detach(), rows, drawn)).view_as(originals)
        with arithmetic(self.device, self.precision):
            logits = model.discriminator_predictions(self.language.states(batch | {"input_ids": ids})).float()
        real = to_device(self.blocks.pieces[list(rows)] > 0, self.device)
        targets = to_device(drawn.targets, self.device)
        generated = functional.cross_entropy(guessed, targets, reduction="none")
        return Judged(generated, ids, (ids != originals)[real], logits[real])

    def _sample(self, logits: torch.Tensor, rows: Sequence[int], drawn: Drawn) -> torch.Tensor:
        """Return one token for each chosen place, drawn as its logits say: the highest of logits and Gumbel noise."""
        length = self.blocks.length
        counts = np.bincount(drawn.places // length, minlength=len(rows))
        noise = [self._noise(int(row), int(count), logits.shape[1]) for row, count in zip(rows, counts, strict=True)]
        return (logits + torch.cat(noise)).argmax(dim=-1)

    def _noise(self, block: int, count: int, vocabulary: int) -> torch.Tensor:
        """Return Gumbel noise that is a function of seed, epoch and block; an accelerator draws its own."""
        seed = np.random.SeedSequence([self.seed, self.epoch, block, SAMPLING])
        if self.device == "cpu":
            random = np.random.Generator(np.random.PCG64(seed))
            return torch.from_numpy(random.gumbel(size=(count, vocabulary)).astype(np.float32))
        generator = torch.Generator(self.device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        return torch.empty(count, vocabulary, device=self.device).exponential_(generator=generator).log_().neg_()
