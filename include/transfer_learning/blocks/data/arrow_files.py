"""Parquet and Arrow IPC: the header is checked before a row is read, and believed only as far as the file bears it out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from transfer_learning.blocks.data.source_file import BATCH_BYTES, BATCH_ROWS, Reading, SourceFile, check_columns, no_rows
from transfer_learning.errors import BadInput

BROKEN = (pa.ArrowException, OSError, ValueError, OverflowError)
"""What pyarrow raises for a file that is not what it says."""


def parquet_header(file: SourceFile, reading: Reading) -> pa.Schema:
    """Return the wanted columns and their types.

    Raises:
        BadInput: truncated, no Parquet, sizes that cannot be true, no rows, duplicate or missing columns.
    """
    with _open_parquet(file) as parquet:
        schema = _schema(file, parquet)
        _refuse_lies(file, parquet.metadata)
        check_columns(file, schema.names, reading.columns)
        if parquet.metadata.num_rows == 0:
            raise no_rows(file)
        return pa.schema([schema.field(name) for name in reading.columns])


def parquet_batches(file: SourceFile, reading: Reading, schema: pa.Schema) -> Iterator[pa.RecordBatch]:  # noqa: ARG001
    """Yield the wanted columns in bounded batches.

    Raises:
        BadInput: damaged pages, or another number of rows than the footer states.
    """
    with _open_parquet(file) as parquet:
        rows, size = 0, _batch_rows(parquet.metadata)
        try:
            for batch in parquet.iter_batches(size, columns=list(reading.columns), use_threads=False):
                chosen = batch.select(list(reading.columns))
                check_text(file, chosen, rows)
                rows += batch.num_rows
                yield chosen
        except MemoryError:  # first: pyarrow's own is an ArrowException too
            raise _lies(file, "a page needs more memory than the pull may take") from None
        except BROKEN as error:
            raise _broken(file, f"damaged after row {rows}: {error}") from None
        if rows != parquet.metadata.num_rows:
            raise _lies(file, f"the footer states {parquet.metadata.num_rows} rows, and {rows} are there")


def arrow_header(file: SourceFile, reading: Reading) -> pa.Schema:
    """Return the wanted columns of what ``sources`` staged from a query.

    Raises:
        BadInput: no rows, duplicate or missing columns.
    """
    with pa.ipc.open_file(file.paths[0]) as table:
        check_columns(file, table.schema.names, reading.columns)
        if not table.num_record_batches:
            raise no_rows(file)
        return pa.schema([table.schema.field(name) for name in reading.columns])


def arrow_batches(file: SourceFile, reading: Reading, schema: pa.Schema) -> Iterator[pa.RecordBatch]:  # noqa: ARG001
    """Yield the wanted columns, as they were staged."""
    with pa.OSFile(str(file.paths[0])) as raw, pa.ipc.open_file(raw) as table:
        rows = 0
        for index in range(table.num_record_batches):
            batch = table.get_batch(index).select(list(reading.columns))
            check_text(file, batch, rows)
            rows += batch.num_rows
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def check_text(file: SourceFile, batch: pa.RecordBatch, rows_before: int) -> None:
    """Check what Arrow takes on trust: offsets, dictionary indices, and that text is UTF-8.

    Raises:
        BadInput: the first row whose text is not UTF-8, or a batch that is not what its type says.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        for name in batch.schema.names:
            column = batch.column(name)
            values = column.cast(pa.binary()).to_pylist() if pa.types.is_string(column.type) else []
            for row, value in enumerate(values, start=rows_before + 1):
                if value is not None and not _is_utf8(value):
                    fix = "write the text as UTF-8"
                    raise BadInput("WRONG_ENCODING", "not UTF-8", fix, file=file.name, row=row, column=name) from None
        raise _broken(file, f"damaged after row {rows_before}: {error}") from None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _open_parquet(file: SourceFile) -> pq.ParquetFile:
    path = file.paths[0]
    size = path.stat().st_size
    if not size:
        raise BadInput("EMPTY_FILE", "the file is empty", "leave it out, or write it again", file=file.name)
    with path.open("rb") as raw:
        head = raw.read(4)
        raw.seek(max(0, size - 4))
        tail = raw.read(4)
    if head != b"PAR1":
        raise _broken(file, "it does not begin as Parquet does")
    if tail != b"PAR1":
        raise BadInput("TRUNCATED_PARQUET", "the file ends before its footer", "copy or write it again", file=file.name)
    try:
        # Streamed through a small buffer: otherwise a column of a row group is in memory at once.
        return pq.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=1 << 20)
    except (*BROKEN, MemoryError) as error:
        raise _broken(file, f"the footer cannot be read: {error}") from None


def _schema(file: SourceFile, parquet: pq.ParquetFile) -> pa.Schema:
    try:
        return parquet.schema_arrow
    except BROKEN as error:
        raise _broken(file, f"the schema cannot be read: {error}") from None


def _refuse_lies(file: SourceFile, metadata: pq.FileMetaData) -> None:
    """Hold the footer's counts against each other.

    Never ``row_group(i).column(j)``: pyarrow ends the whole process there when a column's metadata are damaged. The reader finds
    the same damage and says so.
    """
    groups = sum(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    if metadata.num_rows < 0 or groups != metadata.num_rows:
        raise _lies(file, f"the footer states {metadata.num_rows} rows, its row groups {groups}")


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Return how many rows to take at a time, from the sizes that the footer states."""
    stated = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    return int(max(16, min(BATCH_ROWS, BATCH_BYTES * metadata.num_rows // max(1, stated))))


def _broken(file: SourceFile, what: str) -> BadInput:
    return BadInput("BAD_PARQUET", what[:250], "copy or write the file again", file=file.name)


def _lies(file: SourceFile, what: str) -> BadInput:
    return BadInput("LYING_PARQUET", what, "write the file again", file=file.name)
