"""Reading one file as the pull stage does."""

from __future__ import annotations

from pathlib import Path

import pytest

from transfer_learning.blocks.data.readers import batches, header
from transfer_learning.blocks.data.source_file import Reading, SourceFile
from transfer_learning.errors import BadInput

COLUMNS = ("id", "text", "label")


def rows_of(path: Path, format: str, columns=COLUMNS, **settings) -> list[dict]:
    """Read a whole file as the stage does: header first, then batches."""
    file = SourceFile(path.name, format, (path,))
    reading = Reading(columns, **settings)
    schema = header(file, reading)
    return [row for batch in batches(file, reading, schema) for row in batch.to_pylist()]


def refusal(path: Path, format: str, columns=COLUMNS, **settings) -> str:
    with pytest.raises(BadInput) as caught:
        rows_of(path, format, columns, **settings)
    line = str(caught.value)
    assert "\n" not in line
    return line


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
