"""Rows through an Airflow SQL connection, a batch at a time."""

import json
import sqlite3
import tracemalloc

import pytest

from airflow_transfer_learning.hooks import sql
from airflow_transfer_learning.hooks.sql import stream_batches
from transfer_learning.errors import BadInput, StoreUnreachable


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A SQLite database with three headlines behind the connection ``warehouse``."""
    path = tmp_path / "news.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE news (id INTEGER, headline TEXT, topic TEXT)")
        rows = [(1, "Shares rise", "business"), (2, "Cup final tonight", "sport"), (3, "No label yet", None)]
        connection.executemany("INSERT INTO news VALUES (?, ?, ?)", rows)
    connection.close()
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    return path


def test_rows_come_with_their_names_types_and_nulls(database):
    batches = list(stream_batches("warehouse", "SELECT id, headline, topic FROM news ORDER BY id"))

    assert [row for batch in batches for row in batch.to_pylist()] == [
        {"id": 1, "headline": "Shares rise", "topic": "business"},
        {"id": 2, "headline": "Cup final tonight", "topic": "sport"},
        {"id": 3, "headline": "No label yet", "topic": None},
    ]


def test_no_more_than_a_batch_is_held(database, monkeypatch):
    monkeypatch.setattr(sql, "BATCH_ROWS", 1000)
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT i, hex(i) || 'x' AS text FROM n"
    )
    tracemalloc.start()

    sizes = [batch.num_rows for batch in stream_batches("warehouse", numbers)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert sum(sizes) == 50_000
    assert max(sizes) == 1000
    assert peak < 2_000_000


def test_a_driver_that_returns_fewer_rows_than_asked_for_has_not_come_to_the_end(database, monkeypatch):
    class Sparing(sqlite3.Cursor):
        def fetchmany(self, size):
            return super().fetchmany(min(size, 2))

    monkeypatch.setattr(sql, "_cursor", lambda connection: connection.cursor(Sparing))

    assert sum(batch.num_rows for batch in stream_batches("warehouse", "SELECT id FROM news")) == 3


def test_an_empty_result_still_names_its_columns(database):
    (batch,) = stream_batches("warehouse", "SELECT headline FROM news WHERE id > 99")

    assert (batch.num_rows, batch.schema.names) == (0, ["headline"])


def test_a_column_of_two_types_is_named(database):
    with pytest.raises(BadInput, match=r"^MIXED_TYPES sql://warehouse \[x\] .*CAST"):
        list(stream_batches("warehouse", "SELECT 1 AS x UNION ALL SELECT 'one'"))


def test_two_columns_of_one_name_are_refused(database):
    with pytest.raises(BadInput, match=r"^DUPLICATE_COLUMN sql://warehouse \[id\] .*name them with AS"):
        list(stream_batches("warehouse", "SELECT id, id FROM news"))


def test_a_missing_connection_is_one_clear_line():
    with pytest.raises(BadInput, match="^NO_CONNECTION sql://nowhere there is no connection 'nowhere'"):
        list(stream_batches("nowhere", "SELECT 1"))


def test_a_connection_that_runs_no_sql_is_named(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET", json.dumps({"conn_type": "aws"}))

    with pytest.raises(BadInput, match="^BAD_CONNECTION sql://bucket connections of type 'aws' run no SQL"):
        list(stream_batches("bucket", "SELECT 1"))


def test_a_failing_query_is_one_line(database):
    with pytest.raises((BadInput, StoreUnreachable), match="no such table: other") as caught:
        list(stream_batches("warehouse", "SELECT * FROM other"))

    assert "\n" not in str(caught.value)
