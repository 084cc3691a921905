"""Which rows a model was trained or selected on: they do not judge it, and count as older where training continues."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import BadInput
from transfer_learning.ledger_files import KEYS, SCHEMA, read_ledger


@dataclasses.dataclass(frozen=True, slots=True)
class Dropped:
    """Test rows that stand in a ledger; a row may stand in both."""

    total: int
    candidate_ledger: int
    champion_ledger: int

    def sentence(self, rows: int) -> str:
        """Say what was left out of ``rows`` test rows."""
        return (
            f"{self.total:,} of {rows:,} test rows are left out, since a model was trained or selected on them: "
            f"{self.candidate_ledger:,} stand in the candidate's ledger, {self.champion_ledger:,} in the champion's"
        )


def write_ledger(path: Path, parts: Sequence[Rows]) -> None:
    """Write the keys of every row that the model was trained or selected on.

    A row stands there a second time where the model read other texts of it than the dataset goes by.
    """
    read = [(rows.row_keys, contents) for rows in parts for contents in (rows.content_keys, rows.input_keys())]
    pairs = sorted({pair for row_keys, contents in read for pair in zip(row_keys, contents, strict=True)})
    columns = [pa.array([pair[place] for pair in pairs], kind) for place, kind in enumerate(SCHEMA.types)]
    pq.write_table(pa.table(columns, schema=SCHEMA), path)


def drop_known(rows: Rows, candidate: Sequence[Path], champion: Sequence[Path]) -> tuple[Rows, Dropped]:
    """Return the test rows whose row key and content keys stand in neither ledger, and how many were dropped.

    A row has two content keys where the models read other texts of it than the dataset goes by.

    Args:
        rows: the test rows.
        candidate: folders with the candidate's ledgers, its parents' included.
        champion: folders with the champion's.

    Raises:
        BadInput: a ledger that cannot be read, or no row is left.
    """
    in_candidate, in_champion = in_ledger(rows, candidate), in_ledger(rows, champion)
    known = in_candidate | in_champion
    dropped = Dropped(int(known.sum()), int(in_candidate.sum()), int(in_champion.sum()))
    if known.all():
        raise BadInput(
            "NO_TEST_ROWS",
            f"all {len(rows)} test rows stand in a ledger ({dropped.candidate_ledger} in the candidate's, "
            f"{dropped.champion_ledger} in the champion's), so nothing is left to judge by",
            "add test rows that no model was trained on",
        )
    return rows.select(np.flatnonzero(~known)), dropped


def in_ledger(rows: Rows, folders: Sequence[Path], by: Sequence[str] = KEYS) -> NDArray[np.bool_]:
    """Return for each row whether one of its keys stands in the ledgers of ``folders``.

    Args:
        rows: of any split.
        folders: with ledgers.
        by: which keys; those of the content also find other rows with the same text.

    Raises:
        BadInput: a ledger that cannot be read.
    """
    found = np.zeros(len(rows), dtype=bool)
    ours = {"row_key": [rows.row_keys], "content_key": [rows.content_keys, rows.input_keys()]}
    for ledger in _ledgers(folders):
        for name in by:
            for keys in ours[name]:
                found |= pc.is_in(pa.array(keys, pa.binary()), value_set=ledger[name]).to_numpy(zero_copy_only=False)
    return found


def rows_in(folders: Sequence[Path]) -> int:
    """Return how many distinct rows stand in the ledgers of ``folders``.

    Raises:
        BadInput: a ledger that cannot be read.
    """
    keys = [ledger["row_key"] for ledger in _ledgers(folders)]
    return len(pc.unique(pa.chunked_array(keys))) if keys else 0


def _ledgers(folders: Sequence[Path]) -> Iterator[dict[str, pa.Array]]:
    """Yield the keys of each ledger, by name."""
    for path in sorted(path for folder in folders for path in folder.glob("*.parquet")):
        ledger = read_ledger(path)
        yield {name: ledger[name].combine_chunks().cast(pa.binary()) for name in KEYS}
