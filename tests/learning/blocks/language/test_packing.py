"""Documents in full blocks: nothing is lost, every piece is well formed, and positions start anew."""

import random

import numpy as np
import pytest
import torch

from transfer_learning.blocks.language.packing import (
    SHORTEST_PIECE,
    SHUT,
    Frame,
    attention_mask,
    pack,
    refuse_less_than_one,
)
from transfer_learning.errors import BadInput

MARKED = Frame(first=2, last=3, pad=0, last_of_each=True)
NEXT = Frame(first=1, last=1, pad=1, last_of_each=False)


def documents(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randint(10, 99) for _ in range(chance.randint(1, longest))] for _ in range(count)]


def pieces_of(blocks) -> list[list[int]]:
    return [
        row[numbers == number].tolist()
        for row, numbers in zip(blocks.ids, blocks.pieces, strict=True)
        for number in range(1, numbers.max() + 1)
    ]


@pytest.mark.parametrize("frame", [MARKED, NEXT], ids=["masked", "causal"])
@pytest.mark.parametrize("length", [8, 16, 61])
def test_every_token_is_packed_once_and_in_order(frame: Frame, length: int) -> None:
    given = documents(80, 90)

    blocks = pack(given, length, frame)

    inner = [token for piece in pieces_of(blocks) for token in piece if token >= 10]
    assert inner == [token for document in given for token in document]
    assert blocks.documents == 80


def test_every_piece_of_a_masked_document_is_framed() -> None:
    found = pieces_of(pack(documents(80, 90), 32, MARKED))

    assert {(piece[0], piece[-1]) for piece in found} == {(2, 3)}
    assert all(2 not in piece[1:-1] and 3 not in piece[1:-1] for piece in found)


def test_a_causal_document_is_marked_at_its_end_alone() -> None:
    given = documents(80, 90)

    found = pieces_of(pack(given, 32, NEXT))

    assert {piece[0] for piece in found} == {1}
    assert sum(piece[-1] == 1 for piece in found) == len(given)


def test_blocks_are_full_but_for_less_than_the_shortest_piece() -> None:
    blocks = pack(documents(200, 90), 64, MARKED)

    room = 64 - (blocks.pieces > 0).sum(axis=1)
    assert (room[:-1] < SHORTEST_PIECE).all()
    assert blocks.tokens > 0.98 * blocks.ids.size


def test_positions_start_anew_in_each_piece() -> None:
    blocks = pack([[10] * 5, [11] * 3, [12] * 4], 24, MARKED)

    assert blocks.positions([0]).tolist() == [[*range(7), *range(5), *range(6), *range(6)]]


def test_the_mask_is_a_float_that_opens_pieces_to_themselves() -> None:
    numbers = torch.tensor([[1, 1, 2, 0]])

    both, left = attention_mask(numbers, causal=False), attention_mask(numbers, causal=True)

    assert both.dtype == torch.float32
    assert both.shape == (1, 1, 4, 4)
    assert (both[0, 0] == 0).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert (left[0, 0] == 0).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_what_is_shut_stays_a_finite_number_in_bf16() -> None:
    assert torch.tensor(SHUT).bfloat16().isfinite()
    assert torch.softmax(torch.tensor([0.0, SHUT]), dim=0)[1] == 0


def test_a_document_without_a_token_adds_nothing() -> None:
    blocks = pack([[], [10] * 20, []], 16, MARKED)

    assert blocks.documents == 1


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("given", "length", "line"),
    [
        ([[10] * 40], 7, "^BAD_SETTING max_length is 7, and a block takes at least 8 tokens"),
        ([[], []], 16, "^TOKENIZER the tokenizer finds no token in the corpus"),
        ([[10] * 20], 64, "^SMALL_CORPUS the whole corpus has 22 tokens, and one block takes 64 — add text, or lower max_length"),
    ],
)
def test_what_fills_no_block_is_one_clear_line(given: list, length: int, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        refuse_less_than_one(pack(given, length, MARKED))


def test_packing_one_document_after_another_keeps_types_small() -> None:
    blocks = pack(documents(10, 30), 16, MARKED)

    assert (blocks.ids.dtype, blocks.pieces.dtype) == (np.int32, np.int32)
