"""How candidate and champion are compared."""

from __future__ import annotations

import dataclasses
from typing import Literal

from transfer_learning.errors import BadInput
from transfer_learning.settings import Settings
from transfer_learning.specs.names import check_name, check_seed
from transfer_learning.specs.task import TaskSpec, check_slices


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gate(Settings):
    """What a candidate must show before it may be promoted."""

    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """The metric compared with the champion's."""
    floors: dict[str, float] = dataclasses.field(default_factory=dict)
    """Absolute minimum by metric name, such as ``{"accuracy": 0.9}``."""
    margin: float = 0.02
    """Not worse than the champion by more than this: the interval's lower end is above ``-margin``."""
    min_gain: float | None = None
    """Instead of the margin: better by at least this; the interval's lower end is above it."""
    slice_margin: float | None = None
    """The same rule for each value of each slice column, Holm-corrected; None reports slices without a rule."""
    confidence: float = 0.95
    """Of every interval."""
    inconclusive: Literal["keep_champion", "promote_if_newer"] = "keep_champion"
    """When the interval spans the margin; ``promote_if_newer`` asks for newer data and no loss in the point estimate."""
    baselines: Literal["report", "refuse"] = "report"
    """Losing to TF-IDF + logistic regression is reported, or refuses."""

    def check(self) -> None:
        if not 0 < self.confidence < 1 or not 0 <= self.margin < 1:
            raise BadInput("BAD_SETTING", "Gate.confidence must lie between 0 and 1, and margin be at least 0 and below 1")
        for setting in ("min_gain", "slice_margin"):
            value = getattr(self, setting)
            if value is not None and not 0 <= value < 1:
                raise BadInput("BAD_SETTING", f"Gate.{setting} must be at least 0 and below 1, found {value}")
        for name, floor in self.floors.items():
            if name not in FLOOR_METRICS:
                raise BadInput("UNKNOWN_SETTING", f"Gate.floors has no metric {name!r}", f"known: {', '.join(FLOOR_METRICS)}")
            if not 0 <= floor <= 1:
                raise BadInput("BAD_SETTING", f"Gate.floors[{name!r}] must lie between 0 and 1, found {floor}")


FLOOR_METRICS = ("accuracy", "macro_f1", "macro_precision", "macro_recall")
"""Metrics that a floor can be set on; all of them are shares, and better when higher."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateSpec(Settings):
    """How candidate and champion are compared."""

    gate: Gate = dataclasses.field(default_factory=Gate)
    """The rules."""
    task: TaskSpec | None = None
    """Column roles; None takes the dataset's."""
    slices: tuple[str, ...] = ()
    """Columns to break the metrics down by, beside the task's own."""
    bootstrap_samples: int = 2000
    """Paired resamples behind each interval."""
    seed: int = 0
    """Of the bootstrap."""
    alias: str = "champion"
    """Which alias is the live model."""

    def check(self) -> None:
        check_seed(self.seed, "EvaluateSpec.seed")
        check_name(self.alias, "alias")
        check_slices(self.slices, "EvaluateSpec.slices")
        if self.bootstrap_samples < 100:
            raise BadInput("BAD_SETTING", f"EvaluateSpec.bootstrap_samples must be 100 or more, found {self.bootstrap_samples}")
