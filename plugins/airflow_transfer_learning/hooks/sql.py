"""Rows of a query through any Airflow SQL connection, a batch at a time."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from airflow_transfer_learning.hooks.model_store import find_connection
from transfer_learning.errors import BadInput, StoreUnreachable, TransferLearningError, one_line

BATCH_ROWS = 10_000

MOST_DIGITS = 38
"""Of a number in Arrow's ``decimal128``."""


def stream_batches(conn_id: str, query: str) -> Iterator[pa.RecordBatch]:
    """Yield the query's rows as Arrow batches; no more than one batch of rows is held at a time.

    PostgreSQL's and MySQL's drivers are asked to leave the result on the server; other drivers do as they do by default.

    Raises:
        BadInput: no such connection, not an SQL one, two columns of one name, or a query that the database refuses.
        StoreUnreachable: the database cannot be reached.
    """
    where = f"sql://{conn_id}"
    connection = find_connection(conn_id)
    if connection is None:
        raise BadInput("NO_CONNECTION", f"there is no connection {conn_id!r}", "create it, or correct the source", file=where)
    hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
    if not hasattr(hook, "get_records"):
        raise BadInput(
            "BAD_CONNECTION", f"connections of type {connection.conn_type!r} run no SQL", "name an SQL one", file=where
        )
    try:
        with _result(hook.get_conn(), query) as cursor:
            rows = cursor.fetchmany(BATCH_ROWS)
            columns = list(cursor.description or ())  # some drivers know them only after the first rows
            while True:
                yield _batch(columns, rows, where)
                rows = cursor.fetchmany(BATCH_ROWS)
                if not rows:  # fewer than asked for is no end: some drivers return what one answer of the server held
                    return
    except TransferLearningError:
        raise
    except Exception as error:  # every driver has errors of its own; PEP 249 fixes only their names
        raise _driver_error(error, where, connection.password) from None


@contextlib.contextmanager
def _result(database: Any, query: str) -> Iterator[Any]:
    """Give the cursor of a running query; at the end the connection is closed."""
    cursor = _cursor(database)
    try:
        cursor.execute(query)
        yield cursor
    finally:
        database.close()  # before the cursor: MySQL's would first fetch every row that is left, or fail
        with contextlib.suppress(Exception):
            cursor.close()


def _cursor(database: Any) -> Any:
    """Return a cursor that leaves the result on the server, where the driver's default one loads all of it."""
    driver = type(database).__module__.partition(".")[0]
    if driver in ("psycopg", "psycopg2"):
        return database.cursor("transfer_learning")  # with a name it is a cursor of the server
    if driver == "MySQLdb":
        return database.cursor(importlib.import_module("MySQLdb.cursors").SSCursor)
    return database.cursor()


def _batch(columns: list[Any], rows: list[Any], where: str) -> pa.RecordBatch:
    """Return rows as an Arrow batch, given PEP 249's description of their columns."""
    names = [column[0] for column in columns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            "DUPLICATE_COLUMN", "the query returns two columns of one name", "name them with AS", file=where, column=repeated[0]
        )
    # A connection's extra may ask for rows as dicts.
    tuples = [tuple(row.values()) if isinstance(row, Mapping) else row for row in rows]
    values = list(zip(*tuples, strict=True)) if tuples else [()] * len(names)
    return pa.RecordBatch.from_arrays([_array(*pair, where) for pair in zip(columns, values, strict=True)], names=names)


def _array(column: Sequence[Any], values: tuple[Any, ...], where: str) -> pa.Array:
    try:
        return _as_stated(pa.array(values), column[4], column[5])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise BadInput(
            "MIXED_TYPES", one_line(str(error))[:200], "CAST it to one type in the query", file=where, column=column[0]
        ) from None


def _as_stated(array: pa.Array, precision: int | None, scale: int | None) -> pa.Array:
    """Return a type that is the same for every batch, where the values alone would give each batch its own."""
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        return array.cast(pa.timestamp(array.type.unit, "UTC"))
    if pa.types.is_decimal(array.type) and precision is not None and scale is not None and 0 < precision <= MOST_DIGITS:
        with contextlib.suppress(pa.ArrowInvalid, ValueError):  # some drivers state less than they send
            return array.cast(pa.decimal128(precision, scale))
    return array


def _driver_error(error: Exception, where: str, password: str | None) -> TransferLearningError:
    kinds = {cls.__name__ for cls in type(error).__mro__}
    message = str(error)
    for secret in filter(None, (password, quote(password or "", safe=""))):  # some drivers repeat the whole address
        message = message.replace(secret, "***")
    message = one_line(message)[:300]
    if kinds & {"ProgrammingError", "NotSupportedError", "DataError"}:
        return BadInput("SQL", f"the database refused the query: {message}", "correct it", file=where)
    return StoreUnreachable(f"SQL {where} {type(error).__name__}: {message}")
