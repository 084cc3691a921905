"""What happens to a batch on its way in: rows outside the window, blank texts and rows without a label, each by its policy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transfer_learning.blocks.data.source_file import SourceFile
from transfer_learning.errors import BadInput
from transfer_learning.specs import PullSpec, TaskSpec

Mask = npt.NDArray[np.bool_]
SHOWN = 5
"""Rows named in a message before it says only how many there are."""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Findings:
    """Rows of one kind: how many, and where the first ones stand."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[SourceFile, int]] = []

    def add(self, file: SourceFile, rows: npt.NDArray[np.int64]) -> None:
        """Count rows, numbered from 1 in their file."""
        self.count += len(rows)
        self.first += [(file, int(row)) for row in rows[: SHOWN - len(self.first)]]

    def refuse(self, code: str, what: str, fix: str, column: str | None) -> None:
        """Raise one line if there are any.

        Raises:
            BadInput: with the count and the first rows.
        """
        if self.count:
            file, row = self.first[0]
            places = ", ".join(file.where(row) for file, row in self.first) + (" …" if self.count > len(self.first) else "")
            where = file.where(row).removesuffix(f":{row}")
            number = None if file.members else row
            raise BadInput(code, f"{self.count} {what}: {places}", fix, file=where, row=number, column=column)


class Intake:
    """Applies the policies of one pull and counts what they leave out.

    Args:
        spec: the pull.
        window: ``(start, end)``; rows from start up to, not including, end are kept.
        as_of: the run's own time; for a split by time later rows are left out.
    """

    def __init__(
        self, spec: PullSpec, window: tuple[dt.datetime, dt.datetime] | None = None, as_of: dt.datetime | None = None
    ) -> None:
        self._spec = spec
        self._window = window
        self._as_of = as_of if spec.split.key == "time" else None
        self.dropped = {"outside_window": 0, "after_as_of": 0, "blank": 0, "unlabelled": 0}
        self._blank, self._unlabelled = Findings(), Findings()

    def admitted(
        self, file: SourceFile, batch: pa.RecordBatch, first_row: int
    ) -> tuple[pa.RecordBatch, npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        """Return the rows that stay, their numbers in the file, and their times (µs since 1970) where the rule needs them.

        Missing labels come back as null.

        Raises:
            BadInput: a missing id, group or time, or a time that cannot be read.
        """
        task = self._spec.task
        if task.label is not None:
            place = batch.schema.get_field_index(task.label)
            batch = batch.set_column(place, task.label, without_blanks(batch.column(task.label)))
        rows = np.arange(first_row, first_row + batch.num_rows)
        times = self._times(file, batch, rows)
        keep = np.ones(batch.num_rows, dtype=bool)
        if times is not None and self._window is not None:
            start, end = (microseconds(bound) for bound in self._window)
            self._leave_out("outside_window", keep, (times < start) | (times >= end))
        if times is not None and self._as_of is not None:
            self._leave_out("after_as_of", keep, times > microseconds(self._as_of))
        blank = is_blank(batch.column(task.text))
        if task.text_pair:
            blank |= is_blank(batch.column(task.text_pair))
        self._blank.add(file, rows[keep & blank])
        self._leave_out("blank", keep, blank)
        missing = labels_of(batch, task).is_null().to_numpy(zero_copy_only=False)
        self._unlabelled.add(file, rows[keep & missing])
        if self._spec.unlabelled != "keep":
            self._leave_out("unlabelled", keep, missing)
        self._check_keys(file, batch, rows, keep)
        return batch.filter(pa.array(keep)), rows[keep], None if times is None else times[keep]

    def refuse(self) -> None:
        """Apply the policies ``refuse`` when everything has been read, so that the line can count.

        Raises:
            BadInput: blank texts, or rows without a label.
        """
        task = self._spec.task
        if self._spec.blank_texts == "refuse":
            self._blank.refuse("BLANK_TEXT", "rows have no text", "fill them in, or set blank_texts='drop'", task.text)
        if self._spec.unlabelled == "refuse":
            fix = "fill them in, or set unlabelled='drop' or 'keep'"
            self._unlabelled.refuse("MISSING_LABEL", "rows have no label", fix, task.label)

    def _leave_out(self, reason: str, keep: Mask, out: Mask) -> None:
        self.dropped[reason] += int((keep & out).sum())
        keep &= ~out

    def _check_keys(self, file: SourceFile, batch: pa.RecordBatch, rows: npt.NDArray[np.int64], keep: Mask) -> None:
        task, key = self._spec.task, self._spec.split.key
        for column, needed in ((task.id, True), (task.group, key == "group")):
            if column is None or not needed:
                continue
            missing = keep & without_blanks(batch.column(column)).is_null().to_numpy(zero_copy_only=False)
            if missing.any():
                fix = "fill it in, or split by something else"
                row = int(rows[missing][0])
                raise BadInput("MISSING_KEY", "the cell is empty", fix, file=file.name, row=row, column=column)

    def _times(self, file: SourceFile, batch: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        name = self._spec.task.time
        if name is None or (self._window is None and self._as_of is None):
            return None
        return times_of(batch.column(name), lambda at, value: _bad_time(file, int(rows[at]), name, value))


def labels_of(batch: pa.RecordBatch, task: TaskSpec) -> pa.Array:
    """Return the labels of a batch; of plain text all are null."""
    return pa.nulls(batch.num_rows, pa.string()) if task.label is None else batch.column(task.label)


def times_of(column: pa.Array, error: Callable[[int, object], BadInput]) -> npt.NDArray[np.int64]:
    """Return µs since 1970 in UTC; a time without a zone counts as UTC.

    Raises:
        BadInput: what ``error(place, value)`` returns, for the first value that is no time.
    """
    if column.null_count:
        place = column.is_null().to_pylist().index(True)
        raise error(place, None)
    if not pa.types.is_string(column.type):
        stamps = column if pa.types.is_timestamp(column.type) else column.cast(pa.timestamp("us"))
        micros = stamps.cast(pa.timestamp("us", getattr(stamps.type, "tz", None)), safe=False)
        return np.asarray(micros.cast(pa.int64()).to_numpy(zero_copy_only=False))
    found = np.empty(len(column), dtype=np.int64)
    for place, text in enumerate(column.to_pylist()):
        try:
            found[place] = microseconds(dt.datetime.fromisoformat(text.strip()))
        except (ValueError, OverflowError):
            raise error(place, text) from None
    return found


def microseconds(time: dt.datetime) -> int:
    """Return µs since 1970; a time without a zone counts as UTC."""
    zoned = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
    return (zoned - EPOCH) // dt.timedelta(microseconds=1)


def is_blank(column: pa.Array) -> Mask:
    """Return which texts are null, empty or white space."""
    trimmed = pc.utf8_trim_whitespace(column)
    blank = pc.fill_null(pc.equal(pc.binary_length(trimmed), 0), True)
    return np.array(blank.to_numpy(zero_copy_only=False), dtype=bool)


def without_blanks(column: pa.Array) -> pa.Array:
    """Return ``column`` with null for what is a missing value in text: nothing, white space, or the NaN that pandas writes."""
    if not pa.types.is_string(column.type):
        return column
    missing = pc.or_(pa.array(is_blank(column)), pc.fill_null(pc.is_in(column, pa.array(["NaN", "nan"])), False))
    return pc.if_else(missing, pa.scalar(None, column.type), column)


def _bad_time(file: SourceFile, row: int, column: str, value: object) -> BadInput:
    what = "the time is missing" if value is None else f"{str(value)[:60]!r} is no time"
    return BadInput("BAD_TIME", what, "write ISO 8601, such as 2026-03-01T12:00:00Z", file=file.name, row=row, column=column)
