"""Which rows are drawn where fewer are wanted than there are: by a training that is to learn from few, or by a quick look."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import BadInput


def stratified(rows: Rows, count: int, seed: int) -> Rows:
    """Return ``count`` rows with the labels in their shares, in the order they had.

    A larger draw holds every smaller one, and a row's place among those of its label depends on nothing but its key and the seed.

    Args:
        rows: with labels.
        count: of the rows to take; at least one of each label.
        seed: of the draw.

    Raises:
        BadInput: more than there are, or fewer than labels.
    """
    labels = len(set(rows.labels))
    if count > len(rows):
        raise BadInput("TOO_FEW_ROWS", f"train_rows is {count:,}, and there are {len(rows):,}", "take fewer, or label more")
    if count < labels:
        raise BadInput("BAD_SETTING", f"train_rows is {count}, and there are {labels} labels", "take one row of each at least")
    return rows.select(np.sort(drawing_order(rows, seed)[:count]))


def place_in_draw(row_key: bytes, seed: int) -> bytes:
    """Return what a row is drawn by: whatever the other rows, those with the least are drawn first."""
    return hashlib.sha256(f"{seed} ".encode() + row_key).digest()


def drawing_order(rows: Rows, seed: int, first: int = 1) -> NDArray[np.int64]:
    """Return the places of all rows in the order they are drawn in: any beginning of it has each label in its share.

    Args:
        rows: with labels.
        seed: decides, with its key, a row's place among those of its label.
        first: so many rows of each label come before all others.
    """
    by_label: defaultdict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for place, (key, label) in enumerate(zip(rows.row_keys, rows.labels, strict=True)):
        by_label[label].append((place_in_draw(key, seed), place))
    # In the middles of equal steps from 0 to 1: so any beginning has each label in its share.
    order = [
        (rank >= first, (rank + 0.5) / len(found), drawn, place)
        for found in by_label.values()
        for rank, (drawn, place) in enumerate(sorted(found))
    ]
    return np.array([place for *_, place in sorted(order)], dtype=np.int64)
