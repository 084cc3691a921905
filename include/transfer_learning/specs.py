"""The settings of each stage. Torch-free, frozen, complete, and checked when built."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from typing import Literal

from transfer_learning.errors import BadInput
from transfer_learning.settings import NOT_IN_FINGERPRINT, Settings

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
"""What names of models, datasets and aliases look like; checked before any of them joins a path."""

DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?"
)


LONGEST_DURATION = timedelta(days=36525)
"""A hundred years: before any run's own time there is room for it in the calendar."""


def check_name(name: str, what: str = "name") -> str:
    """Return ``name`` if it is safe as one path segment.

    Raises:
        BadInput: it does not match ``[a-z0-9][a-z0-9._-]{0,62}``, or holds two dots in a row.
    """
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name) or ".." in name:
        raise BadInput(
            "BAD_NAME", f"{what} {str(name)[:80]!r} is not allowed", "use [a-z0-9][a-z0-9._-]{0,62}, such as 'bbc-headlines'"
        )
    return name


def duration(text: str, where: str = "duration") -> timedelta:
    """Return an ISO 8601 duration such as ``P30D`` or ``PT12H``.

    Raises:
        BadInput: months and years (their length varies), zero, more than a hundred years, or anything else.
    """
    match = DURATION.fullmatch(text)
    try:
        span = timedelta(**{unit: int(number) for unit, number in match.groupdict().items() if number}) if match else timedelta(0)
    except (OverflowError, ValueError):
        span = timedelta.max
    if span > LONGEST_DURATION:
        raise BadInput("BAD_SETTING", f"{where} is longer than a hundred years: {text[:80]!r}", "write 'P30D' or 'PT12H'")
    if not span:
        raise BadInput(
            "BAD_SETTING",
            f"{where} must be an ISO 8601 duration in weeks, days, hours, minutes or seconds, found {text[:80]!r}",
            "write 'P30D' or 'PT12H'",
        )
    return span


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec(Settings):
    """What the model must do, as typed column roles."""

    kind: Literal["classification"] = "classification"
    """One label for each text or pair of texts."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of a second text."""
    label: str = "label"
    """Column of the label; empty cells are unlabelled rows."""
    id: str | None = None
    """Column that names a row for good."""
    group: str | None = None
    """Column whose equal values stay in one split."""
    time: str | None = None
    """Column with the time of a row; needed by windows and by the split key ``time``."""
    slices: tuple[str, ...] = ()
    """Columns by which the evaluation is broken down."""

    def check(self) -> None:
        if not self.text or not self.label:
            raise BadInput("BAD_SETTING", "TaskSpec.text and TaskSpec.label must name a column", "name the columns of your data")
        if self.label in (self.text, self.text_pair):
            what = f"TaskSpec.label is {self.label!r}, which is a text too: the answer would stand in the question"
            raise BadInput("BAD_SETTING", what, "name the column of the labels")

    def columns(self) -> tuple[str, ...]:
        """Return the columns of all roles, each once, in a fixed order."""
        named = (self.id, self.text, self.text_pair, self.label, self.group, self.time, *self.slices)
        return tuple(dict.fromkeys(column for column in named if column))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplitSpec(Settings):
    """The split rule, fixed at a dataset name's first snapshot."""

    key: Literal["content", "id", "group", "given", "time"] = "content"
    """What decides a row's split: a hash of its content, id or group, the source itself, or its time."""
    column: str | None = None
    """For ``given``: the column that names the split; None with ``PullSpec.split_sources``."""
    test: float = 0.2
    """Share of rows in test; for ``given`` only where the source has no test split."""
    validation: float | None = None
    """Share of rows in validation; None means 0.1 with 500 labelled rows or more at the first snapshot, else 0."""
    test_period: str | None = None
    """For ``time``: rows newer than this before ``as_of`` are test, such as ``P7D``."""
    validation_period: str | None = None
    """For ``time``: rows in this period before the test period are validation."""
    salt: str = ""
    """Changes every hash; part of the rule."""
    small_classes: Literal["refuse", "exempt"] = "refuse"
    """A class without a test row is refused, or exempt with its counts shown."""

    def check(self) -> None:
        for name, share in (("test", self.test), ("validation", self.validation or 0.0)):
            if not 0 <= share < 1:
                raise BadInput("BAD_SETTING", f"SplitSpec.{name} must be at least 0 and below 1, found {share}")
        if self.test + (self.validation or 0.0) >= 1:
            raise BadInput("BAD_SETTING", "SplitSpec.test and SplitSpec.validation leave no row to train on", "lower one of them")
        if self.key == "time":
            if self.test_period is None:
                raise BadInput("BAD_SETTING", "a split by time needs SplitSpec.test_period", "write test_period='P7D'")
            duration(self.test_period, "SplitSpec.test_period")
            if self.validation_period is not None:
                duration(self.validation_period, "SplitSpec.validation_period")
        elif self.test_period is not None or self.validation_period is not None:
            raise BadInput(
                "BAD_SETTING", f"periods belong to a split by time, and SplitSpec.key is {self.key!r}", "set key='time'"
            )
        if self.column is not None and self.key != "given":
            raise BadInput(
                "BAD_SETTING", f"SplitSpec.column belongs to key='given', and the key is {self.key!r}", "set key='given'"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PullSpec(Settings):
    """Where rows come from, what their columns mean, and how they are split."""

    name: str
    """Dataset name in the store."""
    source: str | tuple[str, ...] | None = None
    """URIs with globs: a local path, ``file://``, ``s3://``, ``hf://org/name@revision``, or ``sql://connection_id``."""
    split_sources: dict[Literal["train", "validation", "test"], str | tuple[str, ...]] | None = None
    """Instead of ``source``: URIs for each split."""
    query: str | None = None
    """For ``sql://``: the query, streamed in batches."""
    format: Literal["parquet", "csv", "jsonl", "class_folders"] | None = None
    """None reads it off the file's extension; ``class_folders`` is one folder a label, one text file a row."""
    encoding: str = "utf-8"
    """Encoding of text files, such as ``latin-1``."""
    delimiter: str = ","
    """Between the cells of a CSV file."""
    task: TaskSpec = dataclasses.field(default_factory=TaskSpec)
    """Column roles."""
    keep: tuple[str, ...] = ()
    """Further columns to keep."""
    split: SplitSpec = dataclasses.field(default_factory=SplitSpec)
    """The split rule."""
    reset_split: str | None = None
    """A reason: replaces the dataset name's split rule, on record."""
    unlabelled: Literal["refuse", "drop", "keep"] = "refuse"
    """What to do with rows that have no label."""
    blank_texts: Literal["refuse", "drop"] = "refuse"
    """What to do with rows whose text is empty or white space."""
    window: str | None = None
    """Keep rows whose time lies in this period before the run, such as ``P30D``."""
    memory_limit_mb: int = dataclasses.field(default=4096, metadata=NOT_IN_FINGERPRINT)
    """Memory the parsing process may take, MiB."""
    cpu_limit_seconds: int = dataclasses.field(default=3600, metadata=NOT_IN_FINGERPRINT)
    """Processor time the parsing process may take, s."""

    def check(self) -> None:
        check_name(self.name, "dataset name")
        if (self.source is None) == (self.split_sources is None):
            raise BadInput("BAD_SETTING", "PullSpec needs source or split_sources, and not both")
        if not self.sources() or not all(uri.strip() for uri in self.sources()):
            # An empty path is the folder that the worker happens to run in.
            raise BadInput("BAD_SETTING", "a source of PullSpec is empty", "name a file, a folder or a pattern")
        if self.split_sources is not None and (self.split.key != "given" or self.split.column is not None):
            raise BadInput("BAD_SETTING", "split_sources goes with split.key='given' and no split.column")
        if self.split_sources is None and self.split.key == "given" and self.split.column is None:
            raise BadInput("BAD_SETTING", "split.key='given' needs split.column or split_sources")
        for key in ("id", "group", "time"):
            if self.split.key == key and getattr(self.task, key) is None:
                raise BadInput("BAD_SETTING", f"split.key={key!r} needs the column task.{key}", f"set task.{key}")
        if any(uri.startswith("sql://") for uri in self.sources()) != (self.query is not None):
            raise BadInput("BAD_SETTING", "a sql:// source and PullSpec.query go together")
        if self.window is not None:
            duration(self.window, "PullSpec.window")
            if self.task.time is None:
                raise BadInput("BAD_SETTING", "PullSpec.window needs the column task.time", "set task.time")
        if self.memory_limit_mb < 256 or self.cpu_limit_seconds < 1:
            raise BadInput("BAD_SETTING", "PullSpec.memory_limit_mb must be 256 or more and cpu_limit_seconds 1 or more")

    def sources(self) -> tuple[str, ...]:
        """Return every source URI."""
        parts = self.split_sources.values() if self.split_sources is not None else (self.source,)
        return tuple(uri for part in parts if part is not None for uri in ((part,) if isinstance(part, str) else part))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneSpec(Settings):
    """How a base model is adapted. None means: chosen by model width and number of rows (``blocks/defaults.py``)."""

    strategy: Literal["full", "linear_probe", "probe_then_fine_tune"] = "full"
    """Every weight; only a new head; or the head first, then head and top blocks."""
    task: TaskSpec | None = None
    """Column roles; None takes the dataset's."""
    unfreeze_blocks: int | None = None
    """For ``probe_then_fine_tune``: how many of the top blocks train in the second phase; None means all."""
    pooling: Literal["architecture", "mean", "cls", "max"] | None = None
    """What the head sees: ``architecture`` is the model's own classification head; the others pool the last block's states.
    None means ``architecture`` for ``full``, ``mean`` for the others."""
    epochs: int | None = None
    """Passes over the rows with the backbone unfrozen."""
    head_epochs: int | None = None
    """Passes that train the head alone."""
    batch_size: int | None = None
    """Rows to one optimizer step, whatever the micro-batch."""
    backbone_lr: float | None = None
    """Peak learning rate of the backbone."""
    head_lr: float | None = None
    """Peak learning rate of the head."""
    weight_decay: float = 0.01
    """Decoupled weight decay; never on biases and normalisation weights."""
    warmup: float = 0.1
    """Share of the steps with rising rate; linear decay to zero follows."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    max_length: int | None = None
    """Longest input in tokens; None means what the rows need, at most what the model can."""
    class_weights: Literal["balanced"] | None = None
    """``balanced`` weighs each class by the inverse of its share."""
    early_stopping: bool = True
    """With a validation split: keep the best epoch and stop after ``patience`` epochs without a better one."""
    patience: int = 2
    """Epochs without improvement of the validation loss."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 where the processor multiplies it natively, else fp32."""
    seed: int = 0
    """Decides order, initial head and dropout."""
    micro_batch: int | None = dataclasses.field(default=None, metadata=NOT_IN_FINGERPRINT)
    """Rows to one forward pass; None starts at the batch size and halves when memory runs out."""
    checkpoint_seconds: float = dataclasses.field(default=60.0, metadata=NOT_IN_FINGERPRINT)
    """Time between checkpoints, s."""
    resume_elsewhere: Literal["mark", "refuse"] = dataclasses.field(default="mark", metadata=NOT_IN_FINGERPRINT)
    """A retry that lands on another kind of machine goes on in the same order, and the model card says so; or it is refused, and
    the next retry may land on the right one."""

    def check(self) -> None:
        positive = (
            "epochs",
            "head_epochs",
            "batch_size",
            "backbone_lr",
            "head_lr",
            "max_length",
            "micro_batch",
            "unfreeze_blocks",
        )
        for name in (*positive, "max_grad_norm", "patience", "checkpoint_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput("BAD_SETTING", f"FineTuneSpec.{name} must be above 0, found {value}")
        if self.weight_decay < 0 or not 0 <= self.warmup < 1:
            raise BadInput("BAD_SETTING", "FineTuneSpec.weight_decay must be 0 or more, and warmup at least 0 and below 1")
        if self.unfreeze_blocks is not None and self.strategy != "probe_then_fine_tune":
            raise BadInput(
                "BAD_SETTING",
                f"unfreeze_blocks belongs to strategy 'probe_then_fine_tune', and the strategy is {self.strategy!r}",
            )
        if self.strategy == "linear_probe" and (self.epochs is not None or self.backbone_lr is not None):
            raise BadInput(
                "BAD_SETTING",
                "a linear_probe trains no backbone: epochs and backbone_lr do not apply",
                "set head_epochs and head_lr",
            )
        if self.strategy == "full" and self.head_epochs is not None:
            raise BadInput(
                "BAD_SETTING",
                "strategy 'full' has no phase for the head alone: head_epochs does not apply",
                "use 'probe_then_fine_tune'",
            )


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
        for name in self.floors:
            if name not in FLOOR_METRICS:
                raise BadInput("UNKNOWN_SETTING", f"Gate.floors has no metric {name!r}", f"known: {', '.join(FLOOR_METRICS)}")


FLOOR_METRICS = ("accuracy", "macro_f1", "macro_precision", "macro_recall")
"""Metrics that a floor can be set on; all of them are better when higher."""


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
        check_name(self.alias, "alias")
        if self.bootstrap_samples < 100:
            raise BadInput("BAD_SETTING", f"EvaluateSpec.bootstrap_samples must be 100 or more, found {self.bootstrap_samples}")
