"""Ledgers as files: the keys of the rows that a model was trained or selected on. Torch-free: store and stages share it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transfer_learning.parquet_files import readable, require_columns

KEYS = ("row_key", "content_key")
SCHEMA = pa.schema([(name, pa.binary(32)) for name in KEYS])


def read_ledger(path: Path) -> pa.Table:
    """Return the keys of a ledger, one row for each pair of them.

    Raises:
        BadInput: it cannot be read, or lacks a key.
    """
    with readable(path, "BAD_LEDGER", "publish the version again"):
        require_columns(KEYS, pq.read_schema(path).names, path)
        return pq.ParquetFile(path).read(list(KEYS)).select(list(KEYS)).cast(SCHEMA)


def split(ledger: pa.Table, parts: Sequence[pa.Table]) -> tuple[pa.Table, list[int]]:
    """Tell what a ledger has to keep itself where others lie ready that it could name.

    A part is named if all its rows are the ledger's, and if it is larger than what would be kept without it: smaller ones are
    kept together anew, so that their number grows with the logarithm of the rows, and a row is written as often at most.

    Args:
        ledger: as ``read_ledger`` returns it.
        parts: other ledgers, in any order.

    Returns:
        The rows that no named part holds, and the places in ``parts`` of those that are named; no row stands in two of these.
    """
    rows = _pairs(ledger)
    covered, named = np.zeros(len(rows), dtype=bool), []
    for place in sorted(range(len(parts)), key=lambda place: -parts[place].num_rows):
        held = pc.is_in(rows, value_set=_pairs(parts[place])).to_numpy(zero_copy_only=False)
        if held.sum() == parts[place].num_rows and not (held & covered).any():
            covered |= held
            named.append((place, held))
    while named and named[-1][1].sum() <= (~covered).sum():
        covered &= ~named.pop()[1]
    return ledger.filter(pa.array(~covered)), [place for place, _ in named]


def _pairs(ledger: pa.Table) -> pa.ChunkedArray:
    """Return both keys of each row in one."""
    keys = [ledger[name].cast(pa.large_binary()) for name in KEYS]
    return pc.binary_join_element_wise(*keys, pa.scalar(b"", pa.large_binary()))
