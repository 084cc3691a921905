"""Rows of a query through any Airflow SQL connection, a batch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from airflow_transfer_learning.hooks.model_store import find_connection
from transfer_learning.errors import BadInput, StoreUnreachable, TransferLearningError, one_line

BATCH_ROWS = 10_000


def stream_batches(conn_id: str, query: str) -> Iterator[pa.RecordBatch]:
    """Yield the query's rows as Arrow batches; no more than one batch of rows is held at a time.

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
        with (
            contextlib.closing(hook.get_conn()) as database,
            contextlib.closing(_cursor(database, connection.conn_type)) as cursor,
        ):
            cursor.execute(query)
            rows = cursor.fetchmany(BATCH_ROWS)
            names = [column[0] for column in cursor.description or ()]  # some drivers know them only after the first rows
            while True:
                yield _batch(names, rows, where)
                rows = cursor.fetchmany(BATCH_ROWS)
                if not rows:  # fewer than asked for is no end: some drivers return what one answer of the server held
                    return
    except TransferLearningError:
        raise
    except Exception as error:  # every driver has errors of its own; PEP 249 fixes only their names
        raise _driver_error(error, where, connection.password) from None


def _cursor(database: Any, conn_type: str | None) -> Any:
    """Return a cursor that leaves the result on the server: psycopg's default one loads all of it."""
    return database.cursor("transfer_learning") if conn_type == "postgres" else database.cursor()


def _batch(names: list[str], rows: list[Any], where: str) -> pa.RecordBatch:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            "DUPLICATE_COLUMN", "the query returns two columns of one name", "name them with AS", file=where, column=repeated[0]
        )
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.RecordBatch.from_arrays(
        [_array(name, values, where) for name, values in zip(names, columns, strict=True)], names=names
    )


def _array(name: str, values: tuple[Any, ...], where: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise BadInput(
            "MIXED_TYPES", one_line(str(error))[:200], "CAST it to one type in the query", file=where, column=name
        ) from None


def _driver_error(error: Exception, where: str, password: str | None) -> TransferLearningError:
    kinds = {cls.__name__ for cls in type(error).__mro__}
    message = str(error)
    for secret in filter(None, (password, quote(password or "", safe=""))):  # some drivers repeat the whole address
        message = message.replace(secret, "***")
    message = one_line(message)[:300]
    if kinds & {"ProgrammingError", "NotSupportedError", "DataError"}:
        return BadInput("SQL", f"the database refused the query: {message}", "correct it", file=where)
    return StoreUnreachable(f"SQL {where} {type(error).__name__}: {message}")
