"""One file of a source as a reader sees it, and the limits that every reader keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from transfer_learning.errors import BadInput, nearest

CELL_BYTES = 10_000_000
"""A longer cell is a mistake, such as a quote that nobody closed."""

BATCH_ROWS = 16_384
BATCH_BYTES = 8 * 2**20
"""A batch ends with whichever comes first; both bound what is in memory at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFile:
    """One table; a folder of class folders is one table whose rows are files."""

    name: str
    """What messages call it: the path or URI that the user knows."""
    format: str
    """``parquet``, ``csv``, ``jsonl``, ``class_folders`` or ``arrow``."""
    paths: tuple[Path, ...]
    """Where it lies on this machine: one path, or one for each row of ``class_folders``."""
    split: str | None = None
    """The split that the user gave to this source."""
    members: tuple[str, ...] = ()
    """For ``class_folders``: the relative path of each row, ``label/…``."""

    def where(self, row: int) -> str:
        """Return how a message names a row, counted from 1."""
        return f"{self.name}/{self.members[row - 1]}" if self.members else f"{self.name}:{row}"


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """How text files are read and which columns are wanted."""

    columns: tuple[str, ...]
    encoding: str = "utf-8"
    delimiter: str = ","
    text: str = "text"
    """For ``class_folders``: the columns that its texts, labels and relative paths get."""
    label: str | None = "label"
    id: str | None = None


def check_columns(file: SourceFile, found: Sequence[str], wanted: Iterable[str]) -> None:
    """Check a header.

    Raises:
        BadInput: a column that stands there twice, or one that is missing (the nearest is named).
    """
    twice = sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []
    if twice:
        raise BadInput(
            "DUPLICATE_COLUMN", f"the column stands {found.count(twice[0])} times", "rename one", file=file.name, column=twice[0]
        )
    for name in wanted:
        if name not in found:
            what = f"there is no such column{nearest(name, found)}"
            names = ", ".join(map(str, found[:20])) + (" …" if len(found) > 20 else "")
            raise BadInput("MISSING_COLUMN", what, f"found: {names}; name the columns in task", file=file.name, column=name)


def cell_too_large(file: SourceFile, row: int, column: str | None = None) -> BadInput:
    """Return the error for a cell above ``CELL_BYTES``."""
    limit = f"a cell is larger than {CELL_BYTES // 10**6} MB"
    return BadInput(
        "CELL_TOO_LARGE", limit, "look for an unclosed quote, or cut the text", file=file.name, row=row, column=column
    )


def no_rows(file: SourceFile) -> BadInput:
    """Return the error for a table with a header and nothing below it."""
    return BadInput("NO_ROWS", "the file has columns but no rows", "leave it out, or write it again", file=file.name)


def string_batch(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> pa.RecordBatch:
    """Return rows of text as one batch."""
    arrays = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))
