"""JSON Lines, strictly: one object a line, one type a column, nothing guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

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
)
from transfer_learning.blocks.data.text_files import Position, lines
from transfer_learning.errors import BadInput

TYPES: dict[type, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number with a point",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
NAMES_SHOWN = 1000
"""Column names remembered beside the wanted ones, to name the nearest."""


def jsonl_header(file: SourceFile, reading: Reading) -> pa.Schema:
    """Read the file once and return the type of each wanted column; one that is null everywhere has type null.

    Raises:
        BadInput: not JSON, not an object, a duplicate key, two types in one column (both rows), or a missing column.
    """
    found: dict[str, tuple[type, int]] = {}
    names: dict[str, None] = {}
    row = 0
    for row, record in enumerate(_records(file, reading), start=1):
        if len(names) < NAMES_SHOWN:
            names |= dict.fromkeys(record)
        for column in reading.columns:
            if (value := record.get(column)) is not None:
                _check_type(file, row, column, value, found)
            elif column in record:
                names[column] = None
    if not row:
        raise BadInput("EMPTY_FILE", "the file is empty", "leave it out, or write it again", file=file.name)
    if not names:
        raise no_rows(file)
    check_columns(file, list(names | dict.fromkeys(found)), reading.columns)
    return pa.schema([(name, TYPES[found[name][0]] if name in found else pa.null()) for name in reading.columns])


def jsonl_batches(file: SourceFile, reading: Reading, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the wanted columns with the types that ``jsonl_header`` found; a key that a line lacks is null."""
    batch: list[dict[str, Any]] = []
    size = 0
    for record in _records(file, reading):
        cells = {name: record.get(name) for name in reading.columns}
        batch.append(cells)
        size += sum(len(value) for value in cells.values() if isinstance(value, str))
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(batch, schema=schema)
            batch, size = [], 0
    if batch:
        yield pa.RecordBatch.from_pylist(batch, schema=schema)


def _check_type(file: SourceFile, row: int, column: str, value: Any, found: dict[str, tuple[type, int]]) -> None:
    kind = type(value)
    if kind not in TYPES:
        raise BadInput(
            "UNSUPPORTED_TYPE",
            f"the value is {WORDS[kind]}",
            "keep text, numbers and booleans only",
            file=file.name,
            row=row,
            column=column,
        )
    first, first_row = found.setdefault(column, (kind, row))
    if kind is not first:
        what = f"{value!r} is {WORDS[kind]}, and row {first_row} holds {WORDS[first]}"
        raise BadInput("MIXED_TYPES", what[:200], "write one type in a column", file=file.name, row=row, column=column)
    if kind is int and not -(2**63) <= value < 2**63:
        raise BadInput(
            "BAD_VALUE", "the number needs more than 64 bits", "write it as text", file=file.name, row=row, column=column
        )
    if kind is str:
        if len(value) > CELL_BYTES:
            raise cell_too_large(file, row, column)
        if not value.isascii() and not _is_unicode(value):
            raise BadInput(
                "WRONG_ENCODING", "half a surrogate pair", "write the text again", file=file.name, row=row, column=column
            )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _records(file: SourceFile, reading: Reading) -> Iterator[dict[str, Any]]:
    position = Position()
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    for line in lines(file, reading.encoding, position):
        if not (text := line.strip()):
            continue
        position.row += 1
        try:
            record = decoder.decode(text)
        except (ValueError, RecursionError) as error:
            what = f"not one JSON object a line: {error}"
            raise BadInput("BAD_JSON", what[:200], "write JSON Lines, or set format", file=file.name, row=position.row) from None
        if not isinstance(record, dict):
            what = f"the line is {WORDS.get(type(record), 'null')}, not an object"
            raise BadInput("BAD_JSON", what, "write one JSON object a line", file=file.name, row=position.row)
        yield record


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return record


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON; write null")
