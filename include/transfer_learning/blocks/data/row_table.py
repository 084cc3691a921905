"""What a pull keeps in memory of each row: hashes, label, split key and place, about 200 bytes. The rows wait on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transfer_learning.blocks.data.hashing import (
    HASH_COLUMNS,
    content_key,
    group_key,
    input_hash,
    row_hash,
    row_key,
    split_points,
)
from transfer_learning.blocks.data.intake import labels_of, without_blanks
from transfer_learning.blocks.data.source_file import SourceFile
from transfer_learning.blocks.data.splits import NOT_GIVEN, SPLITS, Codes
from transfer_learning.errors import BadInput, nearest
from transfer_learning.hashes import Hashes, fixed_binary
from transfer_learning.specs import PullSpec

Integers = npt.NDArray[np.int64]
UNLABELLED = -1


@dataclasses.dataclass(frozen=True, slots=True)
class RowTable:
    """Columns over all admitted rows, in the order in which they were read; a row's number here is its place in the spool."""

    row_key: Hashes
    row_hash: Hashes
    input_hash: Hashes
    content_key: Hashes
    group: Hashes | None
    """Of the group column where the task has one: a group stands in one split."""
    label: npt.NDArray[np.int32]
    """Place in ``labels``, or ``UNLABELLED``."""
    labels: list[object]
    """Distinct labels with their own type, sorted by name, whatever the order of the rows."""
    point: npt.NDArray[np.float64]
    given: Codes
    time: Integers | None
    size: Integers
    """Bytes of the row in Arrow."""
    file: npt.NDArray[np.int32]
    row: Integers
    """Number in its file, counted from 1."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which rows have a label."""
        return np.asarray(self.label != UNLABELLED)

    def where(self, place: int, files: Sequence[SourceFile]) -> str:
        """Return how a message names the row at ``place``."""
        file: SourceFile = files[int(self.file[place])]
        return file.where(int(self.row[place]))


class RowTableBuilder:
    """Collects the columns of ``RowTable`` batch by batch, and hands each batch on with its hashes."""

    def __init__(self, spec: PullSpec, kept: Sequence[str]) -> None:
        self._spec = spec
        self._kept = kept
        self._columns: dict[str, list[Any]] = {field.name: [] for field in dataclasses.fields(RowTable)}
        self._labels: dict[object, int] = {}

    def add(
        self, file_number: int, file: SourceFile, batch: pa.RecordBatch, rows: Integers, times: Integers | None
    ) -> pa.RecordBatch:
        """Take in admitted rows and return them as they go to disk: kept columns and hashes.

        Raises:
            BadInput: a name in the split column that is no split.
        """
        task, split = self._spec.task, self._spec.split
        text, pair = batch.column(task.text), batch.column(task.text_pair) if task.text_pair else None
        inputs, content = input_hash(text, pair), content_key(text, pair)
        keys = row_key(batch.column(task.id)) if task.id else inputs
        hashes = row_hash({name: batch.column(name) for name in self._kept})
        groups = _groups(batch.column(task.group), keys) if task.group else None
        cut_by = keys if split.key == "id" else content if groups is None else groups
        spooled = batch.select(list(self._kept))
        for name, column in zip(HASH_COLUMNS, (keys, hashes, inputs, content), strict=True):
            spooled = spooled.append_column(pa.field(name, pa.binary(32)), fixed_binary(column))
        new: dict[str, Any] = {
            "row_key": keys,
            "row_hash": hashes,
            "content_key": content,
            "label": self._label_codes(labels_of(batch, task)),
            "point": split_points(cut_by, split.salt),
            "given": self._given(file, batch, rows),
            "size": _row_sizes(spooled),
            "file": np.full(len(rows), file_number, dtype=np.int32),
            "row": rows,
        }
        if task.id:
            new["input_hash"] = inputs
        if times is not None:
            new["time"] = times
        if groups is not None:
            new["group"] = groups
        for name, column in new.items():
            self._columns[name].append(column)
        return spooled

    def finish(self) -> RowTable:
        """Return the table; the builder is empty afterwards."""
        joined: dict[str, Any] = {name: self._join(name) for name, parts in self._columns.items() if parts}
        joined.setdefault("input_hash", joined["row_key"])
        labels = sorted(self._labels, key=str)
        ranks = np.empty(len(labels) + 1, dtype=np.int32)
        ranks[-1] = UNLABELLED
        for rank, value in enumerate(labels):
            ranks[self._labels[value]] = rank
        joined["label"] = ranks[joined["label"]]
        return RowTable(**{"time": None, "group": None, **joined}, labels=labels)

    def _join(self, name: str) -> npt.NDArray[Any]:
        parts, self._columns[name] = self._columns[name], []
        return np.concatenate(parts)

    def _label_codes(self, column: pa.Array) -> npt.NDArray[np.int32]:
        found = pc.dictionary_encode(column)
        codes = np.array(
            [self._labels.setdefault(value, len(self._labels)) for value in found.dictionary.to_pylist()] + [UNLABELLED],
            dtype=np.int32,
        )
        places = pc.fill_null(found.indices, -1).to_numpy(zero_copy_only=False)
        return np.asarray(codes[places])

    def _given(self, file: SourceFile, batch: pa.RecordBatch, rows: Integers) -> Codes:
        if file.split is not None:
            return np.full(len(rows), SPLITS.index(file.split), dtype=np.int8)
        name = self._spec.split.column
        if name is None:
            return np.full(len(rows), NOT_GIVEN, dtype=np.int8)
        codes = {None: NOT_GIVEN, "": NOT_GIVEN} | {split: code for code, split in enumerate(SPLITS)}
        values = batch.column(name).to_pylist()
        for place, value in enumerate(values):
            if value not in codes:
                what = f"{value[:40]!r} is no split{nearest(value, SPLITS)}"
                fix = f"write {', '.join(SPLITS)}, or nothing"
                raise BadInput("UNKNOWN_SPLIT", what, fix, file=file.name, row=int(rows[place]), column=name)
        return np.array([codes[value] for value in values], dtype=np.int8)


def _groups(column: pa.Array, keys: Hashes) -> Hashes:
    """Return the hash of each row's group; a row without one is alone."""
    filled = without_blanks(column)
    return np.where(filled.is_valid().to_numpy(zero_copy_only=False), group_key(filled), keys)


def _row_sizes(batch: pa.RecordBatch) -> Integers:
    sizes = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        if pa.types.is_string(column.type):
            sizes += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
        else:
            sizes += max(1, column.type.bit_width // 8)
    return sizes
