"""Test rows that a model was trained on do not judge it."""

import dataclasses
import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transfer_learning.blocks.ledger import Dropped, drop_known, write_ledger
from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import BadInput


def key(text):
    return hashlib.sha256(text.encode()).digest()


def rows(count=6):
    numbers = [str(i) for i in range(count)]
    return Rows(
        texts=[f"text {n}" for n in numbers],
        pairs=[f"pair {n}" for n in numbers],
        labels=["a"] * count,
        label_values=("a",),
        row_keys=[key(f"row {n}") for n in numbers],
        content_keys=[key(f"content {n}") for n in numbers],
        slices={"desk": numbers},
    )


def ledger(folder, row_keys=(), contents=(), name="own.parquet"):
    """A ledger that shares row keys with some test rows and contents with others."""
    folder.mkdir(exist_ok=True)
    keys = [(key(f"row {n}"), key(f"elsewhere {n}")) for n in row_keys]
    keys += [(key(f"elsewhere {n}"), key(f"content {n}")) for n in contents]
    columns = [pa.array([pair[i] for pair in keys], pa.binary(32)) for i in (0, 1)]
    pq.write_table(pa.table(columns, names=["row_key", "content_key"]), folder / name)
    return folder


def test_rows_of_either_ledger_are_dropped_by_row_key_and_by_content_and_counted_each(tmp_path):
    candidate = ledger(tmp_path / "candidate", row_keys=[0], contents=[1])
    champion = ledger(tmp_path / "champion", row_keys=[1, 3])

    kept, dropped = drop_known(rows(), [candidate], [champion])

    assert kept.texts == ["text 2", "text 4", "text 5"]
    assert kept.pairs == ["pair 2", "pair 4", "pair 5"]
    assert kept.slices == {"desk": ["2", "4", "5"]}
    assert kept.row_keys == [key("row 2"), key("row 4"), key("row 5")]
    assert dropped == Dropped(total=3, candidate_ledger=2, champion_ledger=2)
    assert dropped.sentence(6) == (
        "3 of 6 test rows are left out, since a model was trained or selected on them: "
        "2 stand in the candidate's ledger, 2 in the champion's"
    )


def test_the_ledgers_of_parents_count_too(tmp_path):
    ledger(tmp_path / "candidate", row_keys=[0])
    ledger(tmp_path / "candidate", row_keys=[5], name="parent.parquet")

    _, dropped = drop_known(rows(), [tmp_path / "candidate"], [])

    assert dropped == Dropped(2, 2, 0)


def test_a_text_that_was_trained_on_is_known_where_the_dataset_goes_by_another_column(tmp_path):
    others = [key(f"elsewhere {n}") for n in range(2)]
    trained = dataclasses.replace(
        rows(2), texts=["TEXT  0", "text 4"], pairs=["pair 0", "pair 4"], row_keys=others, content_keys=others
    )
    write_ledger(tmp_path / "own.parquet", [trained])

    kept, _ = drop_known(rows(), [tmp_path], [])

    assert kept.texts == ["text 1", "text 2", "text 3", "text 5"]


def test_without_ledgers_every_row_stays(tmp_path):
    (tmp_path / "empty").mkdir()

    kept, dropped = drop_known(rows(), [tmp_path / "empty"], [])

    assert len(kept) == 6
    assert dropped == Dropped(0, 0, 0)


def test_no_row_left_is_one_line(tmp_path):
    candidate, champion = ledger(tmp_path / "a", row_keys=[0, 1, 2]), ledger(tmp_path / "b", contents=[2, 3, 4, 5])

    with pytest.raises(
        BadInput, match=r"^NO_TEST_ROWS all 6 test rows stand in a ledger \(3 in the candidate's, 4 in the champion's\)"
    ):
        drop_known(rows(), [candidate], [champion])


def test_a_damaged_ledger_is_one_line(tmp_path):
    (ledger(tmp_path / "a") / "own.parquet").write_bytes(b"PAR1")

    with pytest.raises(BadInput, match=r"^BAD_LEDGER .*own\.parquet cannot be read"):
        drop_known(rows(), [tmp_path / "a"], [])


def test_a_ledger_without_keys_is_one_line(tmp_path):
    pq.write_table(pa.table({"id": [1]}), tmp_path / "own.parquet")

    with pytest.raises(BadInput, match=r"^MISSING_COLUMN .*own\.parquet \[row_key\]"):
        drop_known(rows(), [tmp_path], [])
