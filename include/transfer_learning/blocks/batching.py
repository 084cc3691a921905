"""Tokenised rows and their order in training and prediction: a function of (seed, epoch), so that position is one integer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from transfer_learning.blocks.devices import to_device

MULTIPLE = 8
"""Padded lengths are multiples of this: eight token positions fill the lanes of AVX2 and of tensor cores."""

MEGA_BATCHES = 50
"""Rows are sorted by length within this many batches: short padding, and still a random mix."""

CHUNK = 1000
"""Texts to one tokenizer call."""


def padded(length: int, multiple: int = MULTIPLE) -> int:
    """Return ``length`` rounded up to a multiple, at least one of it."""
    return max(multiple, -(-length // multiple) * multiple)


def length_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Return row indices in batches of equal padded length, so that a row's result cannot depend on its neighbours.

    Args:
        lengths: tokens of each row.
        token_budget: most padded tokens to a batch; a row longer than that stands alone.
    """
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(padded(int(length)), []).append(row)
    batches: list[list[int]] = []
    for length, rows in sorted(groups.items()):
        size = max(1, token_budget // length)
        batches.extend(rows[start : start + size] for start in range(0, len(rows), size))
    return batches


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of one epoch: every row once, rows of like length together, batches in random order.

    A function of its arguments alone: a resumed run rebuilds the order from the step number.
    """
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = random.permutation(len(lengths))
    # At least four groups, so that small data are not the same batches in every epoch.
    group = batch_size * max(1, min(MEGA_BATCHES, len(order) // (4 * batch_size)))
    sizes = np.asarray(lengths)
    ordered = [part[np.argsort(sizes[part], kind="stable")] for part in np.split(order, range(group, len(order), group))]
    rows = np.concatenate(ordered)
    batches = [rows[start : start + batch_size].tolist() for start in range(0, len(rows), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Tokenised rows, flat: row ``i`` is ``ids[starts[i]:starts[i + 1]]``."""

    ids: np.ndarray[Any, np.dtype[np.int32]]
    segments: np.ndarray[Any, np.dtype[np.int8]] | None
    """Segment of each token; None for models without segments."""
    starts: np.ndarray[Any, np.dtype[np.int64]]
    pad_id: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [int(length) for length in np.diff(self.starts)]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        arrays = ((self.ids, other.ids), (self.starts, other.starts), (self.segments, other.segments))
        return self.pad_id == other.pad_id and all(np.array_equal(a, b) for a, b in arrays)  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]

    def batch(self, rows: Sequence[int], device: str = "cpu", multiple: int = MULTIPLE) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask`` and, with segments, ``token_type_ids``: int64 (rows, length).

        The length is that of the longest row, rounded up to a multiple.
        """
        chosen = np.asarray(rows)
        starts, lengths = self.starts[chosen], self.starts[chosen + 1] - self.starts[chosen]
        places = np.arange(padded(int(lengths.max()), multiple))
        inside = places < lengths[:, None]
        at = (starts[:, None] + places)[inside]
        ids = np.full(inside.shape, self.pad_id, dtype=np.int64)
        ids[inside] = self.ids[at]
        arrays = {"input_ids": ids, "attention_mask": inside.astype(np.int64)}
        if self.segments is not None:
            arrays["token_type_ids"] = np.zeros_like(ids)
            arrays["token_type_ids"][inside] = self.segments[at]
        return {name: to_device(array, device) for name, array in arrays.items()}


def tokenize(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int, *, segments: bool) -> Tokens:
    """Tokenise texts or pairs, cut to ``max_length`` tokens, special tokens included.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        texts: first texts.
        pairs: second texts, or None.
        max_length: longest row in tokens; of a pair the longer text is cut first.
        segments: whether the model has segment embeddings.
    """
    ids: list[np.ndarray[Any, Any]] = []
    kinds: list[np.ndarray[Any, Any]] = []
    lengths: list[int] = []
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for start in range(0, len(texts), CHUNK):
        second = list(pairs[start : start + CHUNK]) if pairs is not None else None
        encoded: Mapping[str, Any] = tokenizer(
            list(texts[start : start + CHUNK]),
            second,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=segments,
        )
        # Without special tokens an empty text has none: the padding token, which ends a text in such models, stands for it.
        rows = [row or [pad] for row in encoded["input_ids"]]
        lengths.extend(len(row) for row in rows)
        ids.extend(np.asarray(row, dtype=np.int32) for row in rows)
        if segments:
            kinds.extend(np.asarray(row, dtype=np.int8) for row in encoded["token_type_ids"])
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return Tokens(np.concatenate(ids), np.concatenate(kinds) if segments else None, starts, pad)
