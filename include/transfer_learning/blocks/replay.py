"""Which rows a training takes that goes on from an earlier version: all that are new, and a share of the older ones.

Training on new rows alone forgets the old ones (McCloskey and Cohen 1989); mixing in a few of them, "rehearsal", is the simplest
remedy that works (Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transfer_learning.blocks.ledger import in_ledger, rows_in
from transfer_learning.blocks.rows import Rows, concat
from transfer_learning.blocks.sampling import place_in_draw


@dataclasses.dataclass(frozen=True, slots=True)
class Mixture:
    """What a training took."""

    new: int
    older: int
    """Older rows that were drawn."""
    of: int
    """Older rows that there were."""

    def __str__(self) -> str:
        if not self.new:
            return f"no row is new: all {self.of:,} older ones"
        return f"{self.new:,} new rows and {self.older:,} of {self.of:,} older ones"


def new_share(rows: Rows, ledgers: Sequence[Path]) -> float:
    """Return how much of all that is learned then is new: rows in no ledger, beside those in one, at hand or gone.

    Args:
        rows: of the dataset; at least one.
        ledgers: as of ``mix``; without any all rows are new.

    Raises:
        BadInput: a ledger that cannot be read.
    """
    new = len(rows) - int(in_ledger(rows, ledgers).sum())
    return new / (new + rows_in(ledgers))


def mix(
    train: Rows, older: Rows | None, ledgers: Sequence[Path], share: float, seed: int, validation: Rows | None = None
) -> tuple[Rows, Mixture]:
    """Return all new rows with so many older ones that these are ``share`` of the whole.

    Older is what stands in a ledger of the version that training starts from, corrected labels included, and every row of
    ``older`` that is not in ``train``, nor in ``validation`` by key or content. Where no row is new, all are taken; where all
    that would train has one label, an older row of another one comes with it. A row's place in the draw depends on nothing but
    its key and the seed.

    Args:
        train: rows of the dataset.
        older: rows of another one.
        ledgers: folders with the ledgers of the starting version; empty where there is none.
        share: at least 0 and below 1.
        seed: of the draw.
        validation: rows that are to judge what is trained.

    Raises:
        BadInput: a ledger that cannot be read, or labels of two types.
    """
    known = in_ledger(train, ledgers)
    pool = train.select(np.flatnonzero(known))
    if older is not None:
        held_out = {*validation.row_keys, *validation.content_keys} if validation is not None else set()
        taken = {*train.row_keys, *held_out}
        keys = zip(older.row_keys, older.content_keys, strict=True)
        others = [place for place, (key, content) in enumerate(keys) if key not in taken and content not in held_out]
        pool = concat(pool, older.select(np.array(others, dtype=np.int64)))
    new = train.select(np.flatnonzero(~known))
    if not len(new):
        return _in_order(pool), Mixture(0, len(pool), len(pool))
    wanted = min(len(pool), round(share / (1 - share) * len(new)))
    draw = sorted(range(len(pool)), key=lambda place: place_in_draw(pool.row_keys[place], seed))
    drawn, left = draw[:wanted], draw[wanted:] if share else []
    labels = {*new.labels, *(pool.labels[place] for place in drawn)}
    drawn += [place for place in left if pool.labels[place] not in labels][:1] if len(labels) == 1 else []
    return _in_order(concat(new, pool.select(np.array(drawn, dtype=np.int64)))), Mixture(len(new), len(drawn), len(pool))


def _in_order(rows: Rows) -> Rows:
    """Return the rows by their keys, as every stage reads them, with the labels that they have."""
    left = set(rows.labels)
    ordered = rows.select(np.array(sorted(range(len(rows)), key=rows.row_keys.__getitem__), dtype=np.int64))
    return dataclasses.replace(ordered, label_values=tuple(value for value in rows.label_values if str(value) in left))
