"""What a model must do, as typed column roles."""

from __future__ import annotations

import dataclasses
from typing import Literal

from transfer_learning.errors import BadInput
from transfer_learning.settings import Settings


def check_slices(slices: tuple[str, ...], where: str) -> None:
    """Check that each names a column.

    Raises:
        BadInput: one is empty.
    """
    if "" in slices:
        raise BadInput("BAD_SETTING", f"{where}[{slices.index('')}] is empty, and must name a column", "leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec(Settings):
    """What the model must do, as typed column roles."""

    kind: Literal["classification"] = "classification"
    """One label for each text or pair of texts."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of a second text."""
    label: str | None = "label"
    """Column of the label; empty cells are unlabelled rows. None is plain text, for pretraining: no row has a label."""
    id: str | None = None
    """Column that names a row for good."""
    group: str | None = None
    """Column whose equal values stay in one split, for the split keys ``group``, ``given`` and ``time``. By the last two test
    wins over validation, and both over training: the group's other rows are left out. An empty cell is no group."""
    time: str | None = None
    """Column with the time of a row; needed by windows and by the split key ``time``."""
    slices: tuple[str, ...] = ()
    """Columns by which the evaluation is broken down."""

    def check(self) -> None:
        if not self.text or self.label == "":
            raise BadInput("BAD_SETTING", "TaskSpec.text and TaskSpec.label must name a column", "name the columns of your data")
        for role in ("text_pair", "id", "group", "time"):
            if getattr(self, role) == "":
                raise BadInput("BAD_SETTING", f"TaskSpec.{role} is empty, and must name a column", "leave it out")
        check_slices(self.slices, "TaskSpec.slices")
        if self.label is not None and self.label in (self.text, self.text_pair):
            what = f"TaskSpec.label is {self.label!r}, which is a text too: the answer would stand in the question"
            raise BadInput("BAD_SETTING", what, "name the column of the labels")

    def texts(self) -> tuple[str, ...]:
        """Return the columns of one or two texts."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    def columns(self) -> tuple[str, ...]:
        """Return the columns of all roles, each once, in a fixed order."""
        named = (self.id, self.text, self.text_pair, self.label, self.group, self.time, *self.slices)
        return tuple(dict.fromkeys(column for column in named if column))
