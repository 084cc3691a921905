"""The documents of a corpus: rows as plain text, labels left out, empty ones dropped and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from transfer_learning.blocks.rows import Rows, part_files, read_rows
from transfer_learning.errors import BadInput
from transfer_learning.parquet_files import readable
from transfer_learning.specs import TaskSpec

LONGEST_PIECE = 100_000
"""Characters to one piece of a long document: a tokenizer's memory grows with what it gets at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in the order of their row keys, whatever parts they came in and whichever of them have a label."""

    rows: Rows
    """Without labels."""
    empty: int
    """Documents that were dropped: no text in them."""

    def __len__(self) -> int:
        return len(self.rows)

    def documents(self) -> Iterator[str]:
        """Yield every document; the two texts of a pair are one, on two lines."""
        for place, text in enumerate(self.rows.texts):
            yield text if self.rows.pairs is None else f"{text}\n{self.rows.pairs[place]}"


def read_corpus(folders: Sequence[Path], task: TaskSpec, *, role: str = "train") -> Corpus:
    """Read documents.

    Args:
        folders: of Parquet parts; one without a part adds nothing.
        task: the column roles.
        role: named in messages.

    Raises:
        BadInput: no document, all of them empty, or as ``rows.read_rows``.
    """
    count = _rows_in(folders)
    if not count:
        raise BadInput("NO_ROWS", f"{role}: no document", "pull data that has some")
    rows = read_rows(folders, task, role=role, labelled=False, blank="drop")
    if not len(rows):
        what = f"all {count} documents are empty"
        raise BadInput("NO_TEXT", what, "name the column of the text in the task", column=task.text)
    return Corpus(rows, count - len(rows))


def _rows_in(folders: Sequence[Path]) -> int:
    rows = 0
    for path in part_files(folders):
        with readable(path):
            rows += pq.read_metadata(path).num_rows
    return rows


def pieces(document: str) -> Iterator[str]:
    """Yield a document in pieces of at most ``LONGEST_PIECE`` characters, cut at white space where there is any."""
    start = 0
    while len(document) - start > LONGEST_PIECE:
        end = start + LONGEST_PIECE
        space = document.rfind(" ", start + LONGEST_PIECE // 2, end)
        end = end if space < 0 else space
        yield document[start:end]
        start = end
    yield document[start:]
