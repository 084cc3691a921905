"""The documents of a corpus: rows as plain text, labels left out, empty ones dropped and counted."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from transfer_learning.blocks.rows import Rows, part_files, read_rows
from transfer_learning.errors import BadInput
from transfer_learning.specs import TaskSpec

LONGEST_PIECE = 100_000
"""Characters to one piece of a long document: a tokenizer's memory grows with what it gets at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in an order of their own, whatever parts they came in."""

    parts: tuple[Rows, ...]
    """The rows of each role, without labels."""
    empty: int
    """Documents that were dropped: no text in them."""

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.parts)

    def documents(self) -> Iterator[str]:
        """Yield every document; the two texts of a pair are one, on two lines."""
        for rows in self.parts:
            for place, text in enumerate(rows.texts):
                yield text if rows.pairs is None else f"{text}\n{rows.pairs[place]}"

    def digest(self) -> str:
        """Return the sha256 over row keys and texts, in order."""
        found = hashlib.sha256()
        for rows in self.parts:
            for place, (key, text) in enumerate(zip(rows.row_keys, rows.texts, strict=True)):
                pair = "" if rows.pairs is None else rows.pairs[place]
                found.update(key + hashlib.sha256(f"{len(text)} {text} {pair}".encode()).digest())
            found.update(b"|")
        return found.hexdigest()


def read_corpus(roles: dict[str, Sequence[Path]], task: TaskSpec) -> Corpus:
    """Read the documents of every role.

    Args:
        roles: folders of Parquet parts by role, such as ``train``; a role without a part adds nothing.
        task: the column roles.

    Raises:
        BadInput: no document, all of them empty, or as ``rows.read_rows``.
    """
    found, rows_read = [], 0
    for role, folders in roles.items():
        if count := _rows_in(folders):
            rows_read += count
            found.append(read_rows(folders, task, role=role, labelled=False, blank="drop"))
    corpus = Corpus(tuple(rows for rows in found if len(rows)), rows_read - sum(len(rows) for rows in found))
    if not rows_read:
        raise BadInput("NO_ROWS", f"{' and '.join(roles)}: no document", "pull data that has some")
    if not corpus.parts:
        what = f"all {rows_read} documents are empty"
        raise BadInput("NO_TEXT", what, "name the column of the text in the task", column=task.text)
    return corpus


def _rows_in(folders: Sequence[Path]) -> int:
    try:
        return sum(pq.read_metadata(path).num_rows for path in part_files(folders))
    except (pa.ArrowException, OSError) as error:
        raise BadInput("BAD_PARQUET", f"cannot be read: {error}", "pull the dataset again", file=folders[0]) from None


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
