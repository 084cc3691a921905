"""Parquet files of our own, and how one that cannot be read is told. Torch-free, so that both sides of a job say the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from transfer_learning.errors import BadInput, is_out_of_memory, nearest


@contextlib.contextmanager
def readable(path: Path, code: str = "BAD_PARQUET", fix: str = "pull the dataset again") -> Iterator[None]:
    """Turn a file that cannot be read into one line; lack of memory stays what it is.

    Raises:
        BadInput: it is cut off, or no Parquet.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise BadInput(code, f"cannot be read: {error}", fix, file=path) from None


def require_columns(columns: Sequence[str], known: Sequence[str], path: Path) -> None:
    """Check that a file has these columns, each once.

    Raises:
        BadInput: one is missing (the nearest is named), or stands there twice.
    """
    for column in columns:
        if column not in known:
            raise BadInput(
                "MISSING_COLUMN",
                f"there is no such column{nearest(column, known)}",
                f"known: {', '.join(name for name in known if not name.startswith('_'))}",
                file=path,
                column=column,
            )
        if known.count(column) > 1:
            raise BadInput("DUPLICATE_COLUMN", "the column stands there twice", "name them apart", file=path, column=column)
