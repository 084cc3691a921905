"""Which rows a snapshot keeps: one copy of each, no text in two splits, and the same choice in whatever order they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from transfer_learning.blocks.data.row_table import Integers, RowTable
from transfer_learning.blocks.data.source_file import SourceFile
from transfer_learning.blocks.data.splits import TEST, TRAIN, VALIDATION, Codes
from transfer_learning.errors import BadInput


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """The rows that stay."""

    places: Integers
    """Places in the row table, sorted by row key."""
    split: Codes
    """Split of each place."""
    dropped: dict[str, int]
    contradictions: Integers
    """Places of labelled rows whose text carries another label elsewhere, by content key; each text once for each label."""
    repeated: int
    """Kept rows whose text stands in another kept row too."""


def refuse_conflicting_ids(table: RowTable, id_column: str, files: Sequence[SourceFile]) -> None:
    """Check that rows of one id are copies; a copy without its label is one.

    Raises:
        BadInput: two rows with one id and different content, both named.
    """
    order, starts = _by_key_best_first(table, _ranks(table.row_key))
    best = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    same_kind = table.labelled[order] == table.labelled[best]
    different = table.input_hash[order] != table.input_hash[best]
    different |= same_kind & (table.row_hash[order] != table.row_hash[best])
    if different.any():
        at = int(np.flatnonzero(different)[0])
        first, second = sorted((int(best[at]), int(order[at])))
        count = len(np.unique(best[different]))
        what = f"the id stands in {table.where(first, files)} too, with other content ({count} such ids)"
        file, row = files[table.file[second]], int(table.row[second])
        where, number = (file.where(row), None) if file.members else (file.name, row)
        raise BadInput("DUPLICATE_ID", what, "give each row an id of its own", file=where, row=number, column=id_column)


def select(table: RowTable, split: Codes) -> Selection:
    """Choose the rows of a snapshot.

    1. Copies (same row key, same split) become one: a labelled one, of several the one with the smallest row hash.
    2. Test wins: a text or a group that stands in test leaves validation and training, one in validation leaves training.
    3. A row without a label goes when its text stands in the same split with one.

    Args:
        table: all admitted rows.
        split: each row's split by the rule.
    """
    content = _ranks(table.content_key)
    keep, dropped = _without_copies(table, split)
    together = [content] if table.group is None else [content, _ranks(table.group)]
    highest = np.max([_highest(keys, split, keep) for keys in together], axis=0)
    for name, winner in (("test_wins", TEST), ("validation_wins", VALIDATION)):
        loses = keep & (split < winner) & (highest == winner)
        dropped[name] = int(loses.sum())
        keep &= ~loses
    with_label = np.zeros(int(content.max(initial=-1)) + 1, dtype=bool)
    with_label[content[keep & table.labelled]] = True
    copies = keep & ~table.labelled & with_label[content]
    dropped["unlabelled_copies"] += int(copies.sum())
    keep &= ~copies
    places = np.flatnonzero(keep)
    places = places[np.argsort(table.row_key[places])]
    repeated = len(places) - len(np.unique(content[places]))
    return Selection(places, split[places], dropped, _contradictions(table, content), repeated)


def _highest(keys: Integers, split: Codes, keep: npt.NDArray[np.bool_]) -> Codes:
    """Return, for each place, the highest split in which its key stands."""
    best = np.full(int(keys.max(initial=-1)) + 1, TRAIN, dtype=np.int8)
    np.maximum.at(best, keys[keep], split[keep])
    return best[keys]


def _without_copies(table: RowTable, split: Codes) -> tuple[npt.NDArray[np.bool_], dict[str, int]]:
    order, starts = _by_key_best_first(table, _ranks(table.row_key) * 3 + split)
    winner = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    keep = np.zeros(len(table), dtype=bool)
    keep[order[starts]] = True
    losers = order[~starts]
    upgraded = int((~table.labelled[losers] & table.labelled[winner[~starts]]).sum())
    return keep, {"duplicates": len(losers) - upgraded, "unlabelled_copies": upgraded}


def _by_key_best_first(table: RowTable, group: Integers) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Return places sorted by group, the best copy first, and where a new group starts."""
    order = np.lexsort((_ranks(table.row_hash), ~table.labelled, group))
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = group[order][1:] != group[order][:-1]
    return order, starts


def _contradictions(table: RowTable, content: Integers) -> Integers:
    places = np.flatnonzero(table.labelled)
    pairs = np.unique(content[places] * max(1, len(table.labels)) + table.label[places])
    texts, labels = np.unique(pairs // max(1, len(table.labels)), return_counts=True)
    places = places[np.isin(content[places], texts[labels > 1])]
    # By row hash first, so that the copy that is shown does not depend on the order of the source.
    places = places[np.argsort(table.row_hash[places])]
    _, first = np.unique(content[places] * max(1, len(table.labels)) + table.label[places], return_index=True)
    return np.asarray(places[first])


def _ranks(hashes: npt.NDArray[np.bytes_]) -> Integers:
    return np.asarray(np.unique(hashes, return_inverse=True)[1], dtype=np.int64)
