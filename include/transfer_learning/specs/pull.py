"""Where rows come from and how they are split."""

from __future__ import annotations

import dataclasses
from typing import Literal

from transfer_learning.errors import BadInput
from transfer_learning.settings import NOT_IN_FINGERPRINT, Settings
from transfer_learning.specs.names import check_name, duration
from transfer_learning.specs.task import TaskSpec

LARGEST_LIMIT = 2**31 - 1
"""MiB or seconds: beyond any machine, and below what the kernel counts in bytes and nanoseconds."""


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
        if self.task.group is not None and self.split.key in ("content", "id"):
            what = f"split.key={self.split.key!r} would tear apart the groups of column {self.task.group!r}"
            fix = "set split.key='group', with reset_split where the dataset stands, or leave task.group out"
            raise BadInput("BAD_SETTING", what, fix)
        if any(uri.startswith("sql://") for uri in self.sources()) != (self.query is not None):
            raise BadInput("BAD_SETTING", "a sql:// source and PullSpec.query go together")
        if self.task.label is None and self.unlabelled != "keep":
            what = f"task.label is None, so no row has a label, and unlabelled is {self.unlabelled!r}"
            raise BadInput("BAD_SETTING", what, "set unlabelled='keep'")
        if self.window is not None:
            duration(self.window, "PullSpec.window")
            if self.task.time is None:
                raise BadInput("BAD_SETTING", "PullSpec.window needs the column task.time", "set task.time")
        for setting, least in (("memory_limit_mb", 256), ("cpu_limit_seconds", 1)):
            if not least <= (value := getattr(self, setting)) <= LARGEST_LIMIT:
                what = f"PullSpec.{setting} must lie between {least} and {LARGEST_LIMIT}, found {value}"
                raise BadInput("BAD_SETTING", what)

    def sources(self) -> tuple[str, ...]:
        """Return every source URI."""
        parts = self.split_sources.values() if self.split_sources is not None else (self.source,)
        return tuple(uri for part in parts if part is not None for uri in ((part,) if isinstance(part, str) else part))
