"""Which rows a training takes that is to learn from fewer than there are."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np

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
    sizes = Counter(rows.labels)
    if count > len(rows):
        raise BadInput("TOO_FEW_ROWS", f"train_rows is {count:,}, and there are {len(rows):,}", "take fewer, or label more")
    if count < len(sizes):
        raise BadInput(
            "BAD_SETTING", f"train_rows is {count}, and there are {len(sizes)} labels", "take one row of each at least"
        )
    by_label: defaultdict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for place, (key, label) in enumerate(zip(rows.row_keys, rows.labels, strict=True)):
        by_label[label].append((hashlib.sha256(f"{seed} ".encode() + key).digest(), place))
    # In the middles of equal steps from 0 to 1, so that any prefix of all rows has each label in its share; first one of each.
    order = [
        (rank > 0, (rank + 0.5) / sizes[label], drawn, place)
        for label, found in by_label.items()
        for rank, (drawn, place) in enumerate(sorted(found))
    ]
    return rows.select(np.array(sorted(place for *_, place in sorted(order)[:count]), dtype=np.int64))
