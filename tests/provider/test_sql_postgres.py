"""Rows of a real PostgreSQL server: streamed, typed, and refused in one line."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pytest

from airflow_transfer_learning.hooks import sql
from airflow_transfer_learning.hooks.sql import stream_batches
from postgres import PASSWORD, postgres_server
from transfer_learning.errors import BadInput, StoreUnreachable

pytestmark = pytest.mark.integration

ROWS = 300_000
TEXT_BYTES = 600

NEWS = f"""
CREATE TABLE news AS
SELECT i AS id, rpad('headline ' || i, {TEXT_BYTES}, 'x') AS headline, CASE WHEN i > 10000 THEN i % 5 END AS topic
FROM generate_series(1, {ROWS}) AS i
"""

KINDS = """
SELECT * FROM (VALUES
  ('Grüße', 7, 1.50::numeric(10, 2), 0.5::float8, timestamp '2026-01-02 03:04:05', timestamptz '2026-07-01 12:00+02', true),
  (NULL, NULL, NULL, NULL, NULL, NULL, NULL)
) AS rows (text, number, price, share, local, at, good)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server with a table of 300,000 headlines, whose texts alone take 180 MB."""
    with postgres_server() as uri:
        with psycopg.connect(uri.replace("postgres://", "postgresql://")) as connection:
            connection.execute(NEWS)
        yield uri


@pytest.fixture
def warehouse(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The connection ``warehouse`` to it."""
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", server)
    return server


def resident_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_large_result_stays_on_the_server(warehouse, monkeypatch):
    monkeypatch.setattr(sql, "BATCH_ROWS", 1000)
    list(stream_batches("warehouse", "SELECT 1"))  # loads the driver
    before, most, rows = resident_memory(), 0, 0

    for batch in stream_batches("warehouse", "SELECT * FROM news"):
        rows += batch.num_rows
        most = max(most, resident_memory())

    assert rows == ROWS
    assert most - before < ROWS * TEXT_BYTES / 3


def test_types_and_empty_cells_arrive_as_they_are(warehouse):
    (batch,) = stream_batches("warehouse", KINDS)

    first, second = batch.to_pylist()
    assert first == {
        "text": "Grüße",
        "number": 7,
        "price": Decimal("1.50"),
        "share": 0.5,
        "local": dt.datetime(2026, 1, 2, 3, 4, 5),
        "at": dt.datetime(2026, 7, 1, 10, tzinfo=dt.UTC),
        "good": True,
    }
    assert set(second.values()) == {None}


def test_a_column_has_the_type_that_the_table_states_in_every_batch(server, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", f"{server}?options=-c%20timezone%3DEurope/Berlin")
    query = "SELECT (id / 100.0)::numeric(12, 2) AS price, timestamptz '2026-01-01' + id * interval '1 hour' AS at FROM news LIMIT 30000"

    schemas = {batch.schema for batch in stream_batches("warehouse", query)}

    assert schemas == {pa.schema({"price": pa.decimal128(12, 2), "at": pa.timestamp("us", "UTC")})}


def test_rows_that_the_connection_gives_as_dicts_are_rows_all_the_same(server, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", f"{server}?cursor=dictcursor")

    (batch,) = stream_batches("warehouse", "SELECT id, topic FROM news ORDER BY id LIMIT 2")

    assert batch.to_pylist() == [{"id": 1, "topic": None}, {"id": 2, "topic": None}]


def test_a_query_that_the_database_refuses_is_one_line(warehouse):
    with pytest.raises(
        BadInput, match=r'^SQL sql://warehouse the database refused the query: relation "other" does not exist'
    ) as caught:
        list(stream_batches("warehouse", "SELECT * FROM other"))

    assert "\n" not in str(caught.value)


def test_an_error_in_the_middle_of_a_result_is_one_line(warehouse):
    with pytest.raises(BadInput, match="^SQL sql://warehouse .*division by zero") as caught:
        list(stream_batches("warehouse", "SELECT 1 / (id - 25000) FROM news"))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["password", "port"])
def test_a_server_that_lets_nobody_in_is_one_line_without_the_password(server, monkeypatch, wrong):
    port = server.rsplit(":", 1)[1].partition("/")[0]
    address = server.replace("tester:", "nobody:") if wrong == "password" else server.replace(port, "1")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", address)

    with pytest.raises(StoreUnreachable, match="^SQL sql://warehouse OperationalError") as caught:
        list(stream_batches("warehouse", "SELECT 1"))

    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert quote(PASSWORD, safe="") not in str(caught.value)
