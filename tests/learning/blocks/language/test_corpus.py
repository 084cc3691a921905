"""Documents: read without labels, empty ones dropped and counted, long ones cut for the tokenizer."""

from pathlib import Path

import pytest

from learning.tiny_model import make_rows, write_rows
from transfer_learning.blocks.language.corpus import LONGEST_PIECE, pieces, read_corpus
from transfer_learning.errors import BadInput
from transfer_learning.specs import TaskSpec

ROWS = [("a goal", "sport"), ("", "sport"), (" \t\n ", "film"), ("the bank", "business")]


def test_empty_documents_are_dropped_and_counted(tmp_path: Path) -> None:
    corpus = read_corpus({"train": [write_rows(tmp_path / "train", ROWS)]}, TaskSpec())

    assert sorted(corpus.documents()) == ["a goal", "the bank"]
    assert (len(corpus), corpus.empty) == (2, 2)


def test_the_documents_of_every_role_are_read(tmp_path: Path) -> None:
    roles = {
        "train": [write_rows(tmp_path / "train", make_rows(5))],
        "unlabelled": [write_rows(tmp_path / "more", make_rows(7, 1))],
    }

    assert len(read_corpus(roles, TaskSpec())) == 12


def test_a_label_column_is_not_needed(tmp_path: Path) -> None:
    corpus = read_corpus({"train": [write_rows(tmp_path / "train", ROWS)]}, TaskSpec(label="nowhere"))

    assert len(corpus) == 2


def test_the_two_texts_of_a_pair_are_one_document(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "train", [("goal of the cup", "sport")], pairs=True)

    assert list(read_corpus({"train": [folder]}, TaskSpec(text_pair="second")).documents()) == ["goal of the cup\ngoal says"]


def test_the_digest_follows_from_the_texts_and_not_from_their_parts(tmp_path: Path) -> None:
    one, same, other = (
        read_corpus({"train": [write_rows(tmp_path / name, rows, parts=parts)]}, TaskSpec()).digest()
        for name, rows, parts in (("a", make_rows(9), 1), ("b", make_rows(9)[::-1], 3), ("c", make_rows(9, seed=1), 1))
    )

    assert one == same != other


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
        read_corpus({"train": [write_rows(tmp_path / "train", rows)]}, task)


def test_a_long_document_comes_in_pieces_that_are_the_document() -> None:
    words, solid = "word " * LONGEST_PIECE, "x" * (2 * LONGEST_PIECE + 1)

    cut = list(pieces(words))

    assert "".join(cut) == words
    assert max(map(len, cut)) <= LONGEST_PIECE
    assert all(piece.startswith(" word") for piece in cut[1:])
    assert [len(piece) for piece in pieces(solid)] == [LONGEST_PIECE, LONGEST_PIECE, 1]
