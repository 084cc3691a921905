"""The champion's own test rows as a slice, so that what the live model has learned is not lost unseen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transfer_learning.blocks.evaluation.comparison import Slice
from transfer_learning.blocks.ledger import in_ledger
from transfer_learning.blocks.rows import Rows, read_rows
from transfer_learning.errors import BadInput
from transfer_learning.specs import TaskSpec


@dataclasses.dataclass(frozen=True, slots=True)
class OldData:
    """Rows of the champion's test set."""

    slice: Slice | None = None
    """Numbers among the test rows and then ``gone``; None where that would be the whole test set, or nothing."""
    gone: Rows | None = None
    """Those that the present test set has no more."""
    note: str = ""
    """Why there is no slice, where that is worth saying."""


def find_old(rows: Rows, folders: Sequence[Path], task: TaskSpec, ledgers: Sequence[Path]) -> OldData:
    """Return which rows the champion was tested on.

    Args:
        rows: the present test rows.
        folders: parts of the champion's test set; empty where it is unknown, or the same.
        task: the column roles.
        ledgers: of both models: rows that stand there do not judge.
    """
    if not folders:
        return OldData()
    try:
        theirs = read_rows(folders, task, role="the champion's test set", slices=tuple(rows.slices))
    except BadInput as error:
        return OldData(note=f"the champion's own test rows are no slice: {error}")
    known, ours = set(theirs.row_keys), set(rows.row_keys)
    unused = ~in_ledger(theirs, ledgers)
    gone = theirs.select(
        np.array([place for place in np.flatnonzero(unused) if theirs.row_keys[place] not in ours], dtype=np.int64)
    )
    shared = [place for place, key in enumerate(rows.row_keys) if key in known]
    if not (shared or len(gone)) or (len(shared) == len(rows) and not len(gone)):
        return OldData()
    places = np.array([*shared, *range(len(rows), len(rows) + len(gone))], dtype=np.int64)
    return OldData(("data", "old", places), gone if len(gone) else None)
