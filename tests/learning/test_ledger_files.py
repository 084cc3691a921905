"""A ledger is told in parts: the whole of it, nothing twice, and few of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_learning.errors import BadInput
from transfer_learning.ledger_files import KEYS, read_ledger, split

NUMBERS = st.frozensets(st.integers(0, 12))


def ledger(numbers: Iterable[int], contents: str = "") -> pa.Table:
    keys = sorted(hashlib.sha256(str(number).encode()).digest() for number in numbers)
    others = [hashlib.sha256(key + contents.encode()).digest() for key in keys]
    return pa.table([pa.array(values, pa.binary(32)) for values in (keys, others)], names=list(KEYS))


def rows(table: pa.Table) -> list[tuple[bytes, ...]]:
    return [tuple(row[name] for name in KEYS) for row in table.to_pylist()]


@given(NUMBERS, st.lists(NUMBERS, max_size=5))
def test_the_named_parts_and_the_rest_are_the_ledger_and_no_row_stands_there_twice(
    numbers: frozenset[int], others: list[frozenset[int]]
) -> None:
    parts = [ledger(other) for other in others]

    own, named = split(ledger(numbers), parts)

    found = rows(own) + [row for place in named for row in rows(parts[place])]
    assert sorted(found) == rows(ledger(numbers))


@pytest.mark.parametrize(
    ("new", "parts", "kept", "named"),
    [
        (range(105), [range(100)], 5, [0]),
        (range(100), [range(100)], 0, [0]),
        (range(100), [range(50), range(50, 100)], 0, [0, 1]),
        (range(99), [range(100)], 99, []),
        (range(10), [range(5)], 10, []),
        (range(10), [range(6)], 4, [0]),
        (range(100), [range(60), range(50, 100)], 40, [0]),
        (range(112), [range(100, 104), range(100), range(104, 108)], 12, [1]),
        (range(100), [[]], 100, []),
    ],
    ids=["grown", "same", "of two", "row gone", "no larger", "larger", "overlapping", "small ones together", "empty"],
)
def test_a_part_is_named_where_it_is_the_ledgers_and_larger_than_the_rest(
    new: Iterable[int], parts: list[Iterable[int]], kept: int, named: list[int]
) -> None:
    own, found = split(ledger(new), [ledger(part) for part in parts])

    assert (own.num_rows, found) == (kept, named)


def test_a_row_whose_text_was_changed_is_another_row() -> None:
    own, named = split(ledger(range(100)), [ledger(range(90), "corrected")])

    assert (own.num_rows, named) == (100, [])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(32)])
def test_a_ledger_is_read_as_one_kind_of_keys_whatever_it_was_written_as(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(ledger(range(3)).cast(pa.schema([(name, kind) for name in KEYS])), tmp_path / "ledger.parquet")

    assert read_ledger(tmp_path / "ledger.parquet") == ledger(range(3))


def test_keys_of_another_length_are_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({name: [b"short"] for name in KEYS}), tmp_path / "ledger.parquet")

    with pytest.raises(BadInput, match="^BAD_LEDGER .* cannot be read: "):
        read_ledger(tmp_path / "ledger.parquet")


def test_after_many_nights_there_are_few_parts_and_no_row_was_written_often() -> None:
    chance, rows_so_far, parts, written = random.Random(0), 1_000, [ledger(range(1_000))], 0
    for _ in range(60):
        rows_so_far += chance.randint(1, 50)
        own, named = split(ledger(range(rows_so_far)), parts)
        parts, written = [own, *(parts[place] for place in named)], written + own.num_rows

    assert len(parts) <= 8
    assert sum(part.num_rows for part in parts) == rows_so_far
    assert written <= 5 * (rows_so_far - 1_000)
