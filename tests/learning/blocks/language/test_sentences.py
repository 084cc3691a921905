"""Pairs of segments: half of them true, framed with segment ids, and nothing invented."""

import random

import numpy as np
import pytest

from learning.tiny_language import load
from transfer_learning.blocks.language.packing import Blocks, Frame
from transfer_learning.blocks.language.sentences import pair_up, sentence_lists, split_sentences
from transfer_learning.errors import BadInput

FRAME = Frame(first=2, last=3, pad=0, last_of_each=True)
KINDS = ("next_sentence", "sentence_order")


def documents(count: int, longest: int = 9) -> list[list[list[int]]]:
    """Documents whose tokens tell document, sentence and place: 10 + document * 1000 + sentence * 10 + place."""
    chance = random.Random(0)
    return [
        [[10 + d * 1000 + s * 10 + t for t in range(chance.randint(2, 8))] for s in range(chance.randint(2, longest))]
        for d in range(count)
    ]


def segments_of(blocks: Blocks, row: int) -> tuple[list[int], list[int]]:
    tokens, kinds = blocks.ids[row][blocks.pieces[row] > 0], blocks.segments[row][blocks.pieces[row] > 0]
    return tokens[kinds == 0][1:-1].tolist(), tokens[kinds == 1][:-1].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_pairs_are_true(kind: str) -> None:
    blocks = pair_up(documents(900), 48, FRAME, kind, seed=0)

    assert len(blocks) > 500
    assert blocks.labels.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / len(blocks)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_is_framed_and_has_segment_ids(kind: str) -> None:
    blocks = pair_up(documents(40), 48, FRAME, kind, seed=0)

    for ids, numbers, segments in zip(blocks.ids, blocks.pieces, blocks.segments, strict=True):
        used = int(numbers.sum())
        first = ids.tolist().index(3)
        assert ids[0] == 2
        assert ids[used - 1] == 3
        assert (ids[:used] == 3).sum() == 2
        assert segments.tolist() == [0] * (first + 1) + [1] * (used - first - 1) + [0] * (48 - used)
        assert 1 < first < used - 2


def test_a_true_second_segment_follows_the_first_and_a_false_one_is_of_another_document() -> None:
    blocks = pair_up(documents(60), 64, FRAME, "next_sentence", seed=0)

    for row, spoilt in enumerate(blocks.labels):
        first, second = segments_of(blocks, row)
        follows = second[0] - 10 == (first[-1] - 10) // 10 * 10 + 10
        assert ((first[-1] - 10) // 1000 == (second[0] - 10) // 1000) == (not spoilt)
        assert follows == (not spoilt)


def test_a_false_order_is_the_true_one_swapped() -> None:
    blocks = pair_up(documents(60), 64, FRAME, "sentence_order", seed=0)

    for row, spoilt in enumerate(blocks.labels):
        first, second = segments_of(blocks, row)
        assert {(token - 10) // 1000 for token in (*first, *second)} == {(first[0] - 10) // 1000}
        assert (first[0] > second[0]) == bool(spoilt)


def test_what_a_random_segment_replaced_comes_again() -> None:
    given = documents(60)

    blocks = pair_up(given, 512, FRAME, "next_sentence", seed=0)

    firsts = {token for row in range(len(blocks)) for token in segments_of(blocks, row)[0]}
    lasts = {document[-1][-1] for document in given}
    assert {document[0][0] for document in given} <= firsts
    assert all(token < 10 + 1000 * 60 for token in firsts | lasts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_pairs_and_another_does_not(kind: str) -> None:
    first, second, other = (pair_up(documents(40), 48, FRAME, kind, seed) for seed in (0, 0, 1))

    assert np.array_equal(first.ids, second.ids)
    assert not np.array_equal(first.ids[:20], other.ids[:20])


def test_long_segments_are_cut_far_from_where_they_meet() -> None:
    long = [[[10 + t for t in range(50)], [110 + t for t in range(50)]], [[1010], [1020]]]

    blocks = pair_up(long, 23, FRAME, "sentence_order", seed=0)

    first, second = segments_of(blocks, 0)
    assert (len(first), len(second)) == (10, 10)
    assert (first[-1], second[0]) in ((59, 110), (159, 10))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The bank fell. Shares rose! Why? No one knows", ["The bank fell.", "Shares rose!", "Why?", "No one knows"]),
        ('"We won." They cheered.', ['"We won."', "They cheered."]),
        ("It cost 3.5 million.\nThat is all", ["It cost 3.5 million.", "That is all"]),
        ("株価は上昇した。銀行の利益は減少した。", ["株価は上昇した。", "銀行の利益は減少した。"]),
        ("  \n ", []),
    ],
)
def test_a_text_is_cut_into_its_sentences(text: str, found: list[str]) -> None:
    assert split_sentences(text) == found


def test_sentences_are_told_apart_by_document(tmp_path) -> None:
    tokenizer = load(tmp_path, "bert").tokenizer

    found = sentence_lists(tokenizer, ["the goal. a cup!", "film"], lambda: None)

    assert [len(document) for document in found] == [2, 1]
    assert found[1] == [tokenizer.convert_tokens_to_ids(["film"])]


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("given", "length", "kind", "line"),
    [
        ([[[10]], [[20]]], 32, "sentence_order", "^NO_SENTENCES no document has two sentences, and sentence_order needs them"),
        ([[[10], [11]]], 32, "next_sentence", "^NO_SENTENCES there is one document, and next_sentence draws from others"),
        ([[[10], [11]]], 5, "sentence_order", "^BAD_SETTING max_length is 5, and a pair takes at least 8 tokens"),
    ],
)
def test_a_corpus_without_sentences_is_one_clear_line(given: list, length: int, kind: str, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        pair_up(given, length, FRAME, kind, seed=0)
