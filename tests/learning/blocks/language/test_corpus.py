"""Documents: read without labels, empty ones dropped and counted, long ones cut for the tokenizer."""

from pathlib import Path

import pytest

from learning.tiny_model import make_rows, write_rows
from transfer_learning.blocks.language.corpus import LONGEST_PIECE, pieces, read_corpus
from transfer_learning.errors import BadInput
from transfer_learning.specs import TaskSpec

ROWS = [("a goal", "sport"), ("", "sport"), (" \t\n ", "film"), ("the bank", "business")]


def test_empty_documents_are_dropped_and_counted(tmp_path: Path) -> None:
    corpus = read_corpus([write_rows(tmp_path / "train", ROWS)], TaskSpec())

    assert sorted(corpus.documents()) == ["a goal", "the bank"]
    assert (len(corpus), corpus.empty) == (2, 2)


def test_the_order_of_the_documents_does_not_tell_which_of_them_have_a_label(tmp_path: Path) -> None:
    rows = make_rows(12)
    whole = read_corpus([write_rows(tmp_path / "whole", rows)], TaskSpec())
    parted = read_corpus([write_rows(tmp_path / "train", rows[:5]), write_rows(tmp_path / "unlabelled", rows[5:])], TaskSpec())

    assert list(whole.documents()) == list(parted.documents())


def test_a_label_column_is_not_needed(tmp_path: Path) -> None:
    corpus = read_corpus([write_rows(tmp_path / "train", ROWS)], TaskSpec(label="nowhere"))

    assert len(corpus) == 2


def test_the_two_texts_of_a_pair_are_one_document(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "train", [("goal of the cup", "sport")], pairs=True)

    assert list(read_corpus([folder], TaskSpec(text_pair="second")).documents()) == ["goal of the cup\ngoal says"]


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("rows", "task", "line"),
    [
        ([("", "film"), (" ", "film")], TaskSpec(), r"^NO_TEXT \[text\] all 2 documents are empty — name the column"),
        ([], TaskSpec(), "^NO_ROWS train: no document"),
        ([("a", "b")], TaskSpec(text="body"), r"^MISSING_COLUMN .*\[body\]"),
    ],
)
def test_a_corpus_without_text_is_one_clear_line(tmp_path: Path, rows: list, task: TaskSpec, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        read_corpus([write_rows(tmp_path / "train", rows)], task)


def test_a_long_document_comes_in_pieces_that_are_the_document() -> None:
    words, solid = "word " * LONGEST_PIECE, "x" * (2 * LONGEST_PIECE + 1)

    cut = list(pieces(words))

    assert "".join(cut) == words
    assert max(map(len, cut)) <= LONGEST_PIECE
    assert all(piece.startswith(" word") for piece in cut[1:])
    assert [len(piece) for piece in pieces(solid)] == [LONGEST_PIECE, LONGEST_PIECE, 1]
