"""A file of our own that cannot be read is one line, and lack of memory is not taken for that."""

from pathlib import Path

import pyarrow as pa
import pytest

from transfer_learning.errors import BadInput
from transfer_learning.parquet_files import readable, require_columns


@pytest.mark.parametrize("error", [pa.ArrowInvalid("cut off"), OSError("cut off")])
def test_what_cannot_be_read_is_one_line(error: Exception) -> None:
    line = r"^BAD_LEDGER news.parquet cannot be read: cut off — send it again$"
    with pytest.raises(BadInput, match=line), readable(Path("news.parquet"), "BAD_LEDGER", "send it again"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        pa.ArrowMemoryError("malloc of size 64 failed"),
        pa.ArrowException("Unknown error: Failed to launch worker thread: Resource"),
    ],
)
def test_lack_of_memory_is_no_damage(error: Exception) -> None:
    with pytest.raises(type(error)), readable(Path("news.parquet")):
        raise error


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            ["tex"],
            r"^MISSING_COLUMN news.parquet \[tex\] there is no such column; did you mean 'text'\? — known: text, label, label$",
        ),
        (["text", "label"], r"^DUPLICATE_COLUMN news.parquet \[label\] the column stands there twice — name them apart$"),
    ],
)
def test_a_column_that_is_missing_or_stands_there_twice_is_one_line(columns: list[str], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        require_columns(columns, ["_row_key", "text", "label", "label"], Path("news.parquet"))
