"""From staged files to Arrow record batches, one reader a format: header first, then rows in bounded batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from transfer_learning.blocks.data.arrow_files import arrow_batches, arrow_header, parquet_batches, parquet_header
from transfer_learning.blocks.data.csv_files import csv_batches, csv_header
from transfer_learning.blocks.data.jsonl_files import jsonl_batches, jsonl_header
from transfer_learning.blocks.data.source_file import BATCH_BYTES, BATCH_ROWS, Reading, SourceFile, check_columns, string_batch
from transfer_learning.blocks.data.text_files import whole_text
from transfer_learning.errors import BadInput


def staged_files(folder: Path) -> list[SourceFile]:
    """Return what ``sources.stage_sources`` laid down in ``folder``, in the order of ``sources.json``.

    Raises:
        BadInput: no ``sources.json``, or a path that leaves the folder.
    """
    try:
        entries = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput("BAD_SOURCE", f"sources.json cannot be read: {error}", "stage the sources again", file=folder) from None
    return [_staged_file(folder, entry) for entry in entries]


def header(file: SourceFile, reading: Reading) -> pa.Schema:
    """Return the wanted columns with their types, before any row is kept.

    Raises:
        BadInput: whatever can be seen from the head of the file; see each format.
    """
    return _HEADERS[file.format](file, reading)


def batches(file: SourceFile, reading: Reading, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the wanted columns in bounded batches; ``schema`` is what ``header`` returned.

    Raises:
        BadInput: see each format.
    """
    return _BATCHES[file.format](file, reading, schema)


def class_folders_header(file: SourceFile, reading: Reading) -> pa.Schema:
    """Return the columns of a folder of class folders: its texts, the folder names as labels, relative paths as ids.

    Raises:
        BadInput: a column that such a folder does not have.
    """
    found = [reading.text, *(name for name in (reading.label, reading.id) if name)]
    check_columns(file, found, reading.columns)
    return pa.schema([(name, pa.string()) for name in reading.columns])


def class_folders_batches(file: SourceFile, reading: Reading, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield one row for each text file.

    Raises:
        BadInput: a text that is too large, outside the encoding, or holds a NUL.
    """
    batch: list[list[str]] = []
    size = 0
    for row, member in enumerate(file.members, start=1):
        cells = {reading.text: whole_text(file, row, reading.encoding)}
        if reading.label:
            cells[reading.label] = member.split("/")[0]
        if reading.id:
            # Two sources may be split folders of one corpus, with the same names inside.
            cells[reading.id] = f"{file.split}/{member}" if file.split else member
        batch.append([cells[name] for name in schema.names])
        size += len(cells[reading.text])
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield string_batch(schema.names, batch)
            batch, size = [], 0
    if batch:
        yield string_batch(schema.names, batch)


_HEADERS: dict[str, Callable[[SourceFile, Reading], pa.Schema]] = {
    "parquet": parquet_header,
    "csv": csv_header,
    "jsonl": jsonl_header,
    "class_folders": class_folders_header,
    "arrow": arrow_header,
}
_BATCHES: dict[str, Callable[[SourceFile, Reading, pa.Schema], Iterator[pa.RecordBatch]]] = {
    "parquet": parquet_batches,
    "csv": csv_batches,
    "jsonl": jsonl_batches,
    "class_folders": class_folders_batches,
    "arrow": arrow_batches,
}


def _staged_file(folder: Path, entry: Mapping[str, Any]) -> SourceFile:
    paths = tuple(folder / relative for relative in entry["files"])
    for relative, path in zip(entry["files"], paths, strict=True):
        if Path(relative).is_absolute() or ".." in Path(relative).parts or not path.is_file():
            raise BadInput("BAD_SOURCE", f"{relative!r} is not a file of this folder", "stage the sources again", file=folder)
    members = tuple(entry.get("members", ()))
    return SourceFile(entry["uri"], entry["format"], paths, entry.get("split"), members)
