"""Documents packed into full blocks that do not see each other.

A document that does not fit into the rest of its block goes on in the next one as a piece of its own, with its own special
tokens, and positions start anew in each piece. Attention between pieces is shut by a float mask that is added to the scores:
resetting the positions alone leaks silently, and a boolean mask leaks under eager attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transfer_learning.blocks.batching import CHUNK
from transfer_learning.blocks.language.corpus import pieces
from transfer_learning.errors import BadInput

SHORTEST_PIECE = 8
"""Tokens: less room than this at the end of a block is padded."""

CHUNK_CHARACTERS = 2_000_000
"""Characters to one tokenizer call, or one document if that is longer."""

SHUT = torch.finfo(torch.bfloat16).min
"""Added to a score that must not count: the lowest number that fp32 and bf16 share, so that no cast makes it infinite."""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens around each piece of a document."""

    first: int
    last: int
    pad: int
    last_of_each: bool
    """True ends every piece with ``last``; False only that at the document's end, since the next token is what is learned."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Blocks of one length, each with pieces of one or more documents."""

    ids: NDArray[np.int32]
    """Tokens, (blocks, length)."""
    pieces: NDArray[np.int32]
    """Number of the piece that a token belongs to, from 1, (blocks, length); 0 is padding."""
    documents: int
    segments: NDArray[np.int8] | None = None
    """0 or 1 by token, (blocks, length), where a block is a pair of segments."""
    labels: NDArray[np.int64] | None = None
    """By block, where it is such a pair: 1 for one that was spoilt."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        """Tokens to a block, padding included."""
        return int(self.ids.shape[1])

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return int((self.pieces > 0).sum())

    def select(self, keep: NDArray[np.bool_]) -> Blocks:
        """Return some of the blocks."""
        parts = {name: getattr(self, name) for name in ("ids", "pieces", "segments", "labels")}
        return dataclasses.replace(self, **{name: part[keep] for name, part in parts.items() if part is not None})

    def positions(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Return each token's place in its piece, from 0, (rows, length)."""
        numbers = self.pieces[list(rows)]
        places = np.broadcast_to(np.arange(self.length), numbers.shape)
        starts = np.where(np.diff(numbers, axis=1, prepend=-1) != 0, places, 0)
        return np.asarray(places - np.maximum.accumulate(starts, axis=1), dtype=np.int64)


def attention_mask(numbers: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """Return what is added to the attention scores, fp32 (rows, 1, length, length): 0 within a piece, else ``SHUT``.

    Args:
        numbers: pieces by token, (rows, length); padding sees padding alone.
        causal: whether a token also sees nothing to its right.
    """
    seen = numbers.unsqueeze(2) == numbers.unsqueeze(1)
    if causal:
        seen = seen.tril()
    return torch.where(seen, 0.0, SHUT).unsqueeze(1)


def token_lists(tokenizer: Any, documents: Iterable[str], poll: Callable[[], None]) -> Iterator[list[int]]:
    """Yield the tokens of each document, without special ones; ``poll`` is called between chunks."""
    waiting: list[str] = []
    ends: list[int] = []  # pieces up to and with those of each waiting document
    size = 0

    def flush() -> Iterator[list[int]]:
        poll()
        found = tokenizer(waiting, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)[
            "input_ids"
        ]
        start = 0
        for end in ends:
            yield [token for piece in found[start:end] for token in piece]
            start = end

    for document in documents:
        waiting.extend(pieces(document))
        ends.append(len(waiting))
        size += len(document)
        if len(waiting) >= CHUNK or size >= CHUNK_CHARACTERS:
            yield from flush()
            waiting, ends, size = [], [], 0
    if waiting:
        yield from flush()


def pack(documents: Iterable[list[int]], length: int, frame: Frame) -> Blocks:
    """Pack documents, in their order, into blocks; the last block may be padded.

    Args:
        documents: tokens of each, without special ones; one without a token adds nothing.
        length: tokens to a block.
        frame: the special tokens.

    Raises:
        BadInput: a length that leaves no room for text, or no token at all.
    """
    if length < SHORTEST_PIECE:
        raise BadInput("BAD_SETTING", f"max_length is {length}, and a block takes at least {SHORTEST_PIECE} tokens")
    packer = _Packer(length, frame)
    for tokens in documents:
        packer.add(tokens)
    blocks = packer.blocks()
    if not len(blocks):
        raise BadInput("TOKENIZER", "the tokenizer finds no token in the corpus", "use another tokenizer, or another corpus")
    return blocks


def refuse_less_than_one(blocks: Blocks) -> None:
    """Refuse a corpus that does not fill one block.

    Raises:
        BadInput: it does not.
    """
    if len(blocks) == 1 and blocks.tokens <= blocks.length - SHORTEST_PIECE:
        what = f"the whole corpus has {blocks.tokens} tokens, and one block takes {blocks.length}"
        raise BadInput("SMALL_CORPUS", what, "add text, or lower max_length")


class _Packer:
    """Fills block after block."""

    def __init__(self, length: int, frame: Frame) -> None:
        self._length, self._frame = length, frame
        self._ids: list[NDArray[np.int32]] = []
        self._pieces: list[NDArray[np.int32]] = []
        self._documents = 0
        self._start_block()

    def add(self, tokens: Sequence[int]) -> None:
        """Add one document, in as many pieces as it needs."""
        self._documents += bool(len(tokens))
        every, start = self._frame.last_of_each, 0
        while start < len(tokens):
            if self._length - self._used < SHORTEST_PIECE:
                self._end_block()
            room, left = self._length - self._used - 1, len(tokens) - start
            # Where only a document's end is marked, its last piece needs the room for that mark.
            marked = every or left < room
            end = min(start + room - 1, len(tokens)) if marked else min(start + room, len(tokens) - 1)
            ends_here = end == len(tokens)
            self._put([self._frame.first, *tokens[start:end], *([self._frame.last] if every or ends_here else [])])
            start = end

    def blocks(self) -> Blocks:
        """Return all blocks, the last one padded."""
        if self._used:
            self._end_block()
        empty = np.empty((0, self._length), dtype=np.int32)
        ids, numbers = (np.stack(found) if found else empty for found in (self._ids, self._pieces))
        return Blocks(ids, numbers, self._documents)

    def _put(self, piece: list[int]) -> None:
        self._number += 1
        self._block[self._used : self._used + len(piece)] = piece
        self._numbers[self._used : self._used + len(piece)] = self._number
        self._used += len(piece)

    def _start_block(self) -> None:
        self._block = np.full(self._length, self._frame.pad, dtype=np.int32)
        self._numbers = np.zeros(self._length, dtype=np.int32)
        self._used = self._number = 0

    def _end_block(self) -> None:
        self._ids.append(self._block)
        self._pieces.append(self._numbers)
        self._start_block()
