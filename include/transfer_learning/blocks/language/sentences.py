"""Pairs of segments for the objectives that look at two of them: next sentence (BERT) and sentence order (ALBERT).

A row is one pair, ``[CLS] A [SEP] B [SEP]``, and is never packed with another: what is learned stands between the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from transfer_learning.blocks.language.packing import SHORTEST_PIECE, Blocks, Frame, token_lists
from transfer_learning.errors import BadInput

BORDER = re.compile(
    r"(?<=[.!?…])\s+|(?<=[.!?…][\"'”’»)\]])\s+|(?<=[。！？｡])\s*|\s*\n\s*"  # noqa: RUF001
)
"""Behind a full stop, with a quote or bracket that may follow it, or at a line's end."""

SPECIAL_TOKENS = 3
"""In a pair."""

Sentences = list[list[int]]
"""One document: the tokens of each of its sentences."""


def split_sentences(document: str) -> list[str]:
    """Return a document's sentences, as its punctuation and its lines cut them."""
    return [sentence for sentence in map(str.strip, BORDER.split(document)) if sentence]


def sentence_lists(tokenizer: Any, documents: Iterable[str], poll: Callable[[], None]) -> list[Sentences]:
    """Return the tokens of each sentence of each document, without special ones."""
    counts: list[int] = []

    def flat() -> Iterator[str]:
        for document in documents:
            found = split_sentences(document)
            counts.append(len(found))
            yield from found

    tokens = iter(list(token_lists(tokenizer, flat(), poll)))
    return [[sentence for sentence in (next(tokens) for _ in range(count)) if sentence] for count in counts]


def pair_up(documents: Sequence[Sentences], length: int, frame: Frame, kind: str, seed: int) -> Blocks:
    """Cut documents into pairs of segments that follow each other, half of them spoilt at random.

    A segment is one sentence or more, and both together fill a row where the document is long enough. For ``next_sentence``
    (Devlin et al. 2019) half of the second segments come from another document instead; for ``sentence_order`` (Lan et al. 2020)
    half of the pairs are swapped. The label is 1 for a spoilt pair, as ``transformers`` counts.

    Args:
        documents: sentences of each; one alone in its document follows nothing, and serves as a random other at most.
        length: tokens to a row.
        frame: the special tokens.
        kind: ``next_sentence`` or ``sentence_order``.
        seed: of the draw.

    Raises:
        BadInput: a length without room for two segments, no document with two sentences, or no other document to draw from.
    """
    if length < SHORTEST_PIECE:
        raise BadInput("BAD_SETTING", f"max_length is {length}, and a pair takes at least {SHORTEST_PIECE} tokens")
    known = [sentences for sentences in documents if sentences]
    if not any(len(sentences) > 1 for sentences in known):
        what = f"no document has two sentences, and {kind} needs them"
        raise BadInput("NO_SENTENCES", what, "add longer texts, or leave sentences out")
    if kind == "next_sentence" and len(known) < 2:
        raise BadInput("NO_SENTENCES", "there is one document, and next_sentence draws from others", "add text")
    random = np.random.Generator(np.random.PCG64([seed]))
    rows = [row for place in range(len(known)) for row in _pairs(known, place, length - SPECIAL_TOKENS, kind, random)]
    return _laid_out(rows, length, frame, len(known))


def _pairs(
    documents: Sequence[Sentences], place: int, room: int, kind: str, random: np.random.Generator
) -> Iterator[tuple[list[int], list[int], int]]:
    """Yield the pairs of one document, and whether each is spoilt."""
    sentences, start = documents[place], 0
    while len(sentences) - start > 1:
        end = start + 2
        while end < len(sentences) and sum(map(len, sentences[start:end])) < room:
            end += 1
        cut = int(random.integers(start + 1, end))
        first, second = _joined(sentences[start:cut]), _joined(sentences[cut:end])
        spoilt = bool(random.random() < 0.5)
        if spoilt and kind == "sentence_order":
            first, second = second, first
        elif spoilt:
            second, end = _other(documents, place, len(second), random), cut  # what was replaced comes again
        yield (*_cut(first, second, room), int(spoilt))
        start = end


def _other(documents: Sequence[Sentences], place: int, wanted: int, random: np.random.Generator) -> list[int]:
    """Return sentences that follow each other in another document, about as many tokens as wanted."""
    number = int(random.integers(len(documents) - 1))
    sentences = documents[number + (number >= place)]
    start = end = int(random.integers(len(sentences)))
    while end < len(sentences) and sum(map(len, sentences[start:end])) < wanted:
        end += 1
    return _joined(sentences[start : max(end, start + 1)])


def _cut(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut what is too long, far from where the two meet."""
    if len(first) + len(second) > room:
        kept = min(len(first), max(room // 2, room - len(second)))
        first, second = first[-kept:], second[: room - kept]
    return first, second


def _joined(sentences: Iterable[list[int]]) -> list[int]:
    return [token for sentence in sentences for token in sentence]


def _laid_out(rows: Sequence[tuple[list[int], list[int], int]], length: int, frame: Frame, documents: int) -> Blocks:
    shape = (len(rows), length)
    ids = np.full(shape, frame.pad, dtype=np.int32)
    numbers, segments = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int8)
    for place, (first, second, _) in enumerate(rows):
        middle, end = len(first) + 2, len(first) + len(second) + SPECIAL_TOKENS
        ids[place, :end] = [frame.first, *first, frame.last, *second, frame.last]
        numbers[place, :end] = 1
        segments[place, middle:end] = 1
    return Blocks(ids, numbers, documents, segments, np.array([label for *_, label in rows], dtype=np.int64))
