"""CSV, strictly: every row as wide as its header, every quote closed, every cell text."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import pyarrow as pa

from transfer_learning.blocks.data.source_file import (
    BATCH_BYTES,
    BATCH_ROWS,
    CELL_BYTES,
    Reading,
    SourceFile,
    cell_too_large,
    check_columns,
    no_rows,
    string_batch,
)
from transfer_learning.blocks.data.text_files import Position, lines
from transfer_learning.errors import BadInput


def csv_header(file: SourceFile, reading: Reading) -> pa.Schema:
    """Return the wanted columns, all of them text.

    Raises:
        BadInput: a bad head, a duplicate or a missing column, or no row below it.
    """
    rows = _rows(file, reading)
    header = next(rows)
    check_columns(file, header, reading.columns)
    if next(rows, None) is None:
        raise no_rows(file)
    return pa.schema([(name, pa.string()) for name in reading.columns])


def csv_batches(file: SourceFile, reading: Reading, schema: pa.Schema) -> Iterator[pa.RecordBatch]:  # noqa: ARG001
    """Yield the wanted columns.

    Raises:
        BadInput: a ragged row, an unclosed quote (its first row), a NUL, a huge cell, or bytes outside the encoding.
    """
    rows = _rows(file, reading)
    header = next(rows)
    places = [header.index(name) for name in reading.columns]
    batch: list[list[str]] = []
    size = 0
    for row in rows:
        cells = [row[place] for place in places]
        batch.append(cells)
        size += sum(map(len, cells))
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield string_batch(reading.columns, batch)
            batch, size = [], 0
    if batch:
        yield string_batch(reading.columns, batch)


def _rows(file: SourceFile, reading: Reading) -> Iterator[list[str]]:
    """Yield the header, then every row; empty lines are no rows."""
    if len(reading.delimiter) != 1 or reading.delimiter in '"\r\n\0':
        raise BadInput(
            "BAD_SETTING", f"PullSpec.delimiter must be one character, found {reading.delimiter!r}", "write ',' or '\\t'"
        )
    position = Position()
    # The csv module has one limit for the whole process, 128 KB by default.
    csv.field_size_limit(CELL_BYTES)
    table = csv.reader(lines(file, reading.encoding, position), delimiter=reading.delimiter, strict=True)
    width = 0
    while True:
        first_line = table.line_num
        try:
            row = next(table, None)
        except csv.Error as error:
            raise _csv_error(file, position.row, str(error), spans_lines=table.line_num > first_line + 1) from None
        if row is None:
            break
        if not row:
            continue
        if not width:
            width = len(row)
        else:
            position.row += 1
            if len(row) != width:
                raise _ragged(file, position.row, len(row), width, table.line_num - first_line)
        yield row
    if not width:
        raise BadInput("EMPTY_FILE", "the file has no header", "leave it out, or write it again", file=file.name)


def _csv_error(file: SourceFile, rows_before: int, message: str, *, spans_lines: bool) -> BadInput:
    row = rows_before + 1
    if "field larger" in message:
        return cell_too_large(file, row)
    if "unexpected end of data" in message or spans_lines:
        what = "a quoted cell that begins in this row is not closed"
        return BadInput("UNCLOSED_QUOTE", what, 'close it, and double quotes inside cells ("")', file=file.name, row=row)
    return BadInput("BAD_CSV", f"cannot be read: {message}", 'double quotes inside quoted cells ("")', file=file.name, row=row)


def _ragged(file: SourceFile, row: int, found: int, width: int, height: int) -> BadInput:
    over = f" over {height} lines" if height > 1 else ""
    what = f"the row has {found} cells{over}, the header {width}"
    return BadInput("RAGGED_ROW", what, "quote cells that hold the delimiter, or set delimiter", file=file.name, row=row)
