"""The small pointers that cross XCom as plain dicts. Never data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from transfer_learning.errors import BadInput


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ref:
    """Base of all refs: a plain dict with a ``kind``, and back."""

    kind: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the ref as JSON-ready values with its ``kind``."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | Self) -> Self:
        """Rebuild a ref.

        Raises:
            BadInput: ``values`` is not a ref of this kind, or misses a field.
        """
        if isinstance(values, cls):
            return values
        found = values.get("kind") if isinstance(values, Mapping) else type(values).__name__
        if not isinstance(values, Mapping) or found != cls.kind:
            raise BadInput(
                "WRONG_REF", f"expected a {cls.kind!r} ref, found {found!r}", "pass the output of the task that makes one"
            )
        names = {field.name for field in dataclasses.fields(cls)}
        required = {
            f.name
            for f in dataclasses.fields(cls)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        missing = sorted(required - values.keys())
        if missing:
            raise BadInput("WRONG_REF", f"the {cls.kind!r} ref lacks {', '.join(missing)}", "pass the whole output of the task")
        return cls(**{name: value for name, value in values.items() if name in names})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlanRef(Ref):
    """What a run pinned before it started; later tasks and retries use nothing else."""

    kind: ClassVar[str] = "plan"
    model: str
    """Model name in the store."""
    base: str | None
    """Pinned base model URI, or None where the run makes its first model from scratch."""
    window: dict[str, str] | None = None
    """``{"start", "end"}`` in ISO 8601, or None for all rows."""
    champion: int | None = None
    """Version the alias pointed at, or None on a first run."""
    champion_generation: int | None = None
    """Generation of the alias when it was read."""
    as_of: str
    """The run's own time, ISO 8601 with offset."""
    overrides: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Settings from the form, by stage."""
    store: str = ""
    """URI of the store that the plan checked; the run's other tasks refuse another one."""
    summary: str = ""
    """What the run will do, in a few sentences."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRef(Ref):
    """One immutable snapshot of a dataset."""

    kind: ClassVar[str] = "dataset"
    name: str
    digest: str
    rows: int
    splits: dict[str, int]
    """Labelled rows by split, and all rows without a label under ``unlabelled``."""
    schema: dict[str, str]
    as_of: str
    """The run's time, not the snapshot's."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesRef(Ref):
    """The features of one snapshot's rows, or of one shard of them, under one frozen base model."""

    kind: ClassVar[str] = "features"
    digest: str
    """Names the set's manifest in the store."""
    dataset: dict[str, str]
    """``{"name", "digest"}`` of the snapshot."""
    backbone: str
    """Digest of the base model's files."""
    rows: int
    """Distinct inputs in it."""
    shard: list[int] = dataclasses.field(default_factory=lambda: [0, 1])
    """``[i, n]``; a training takes all n."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelRef(Ref):
    """One immutable version of a model."""

    kind: ClassVar[str] = "model"
    name: str
    version: int
    uri: str
    """Where the published folder lies, such as ``s3://bucket/models/news/artifacts/…``."""
    publish_id: str
    fingerprint: str
    as_of: str | None = None
    """Time of the run that trained it or found it already trained."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VerdictRef(Ref):
    """The outcome of one evaluation; the evidence lies under ``uri``."""

    kind: ClassVar[str] = "verdict"
    model: dict[str, Any]
    """The candidate, as a ``ModelRef`` dict."""
    champion: int | None
    champion_generation: int | None
    passed: bool
    decision: str
    """``passed``, ``refused``, ``inconclusive``, ``unchanged`` or ``first``."""
    sentences: list[str]
    """One plain sentence for each rule."""
    uri: str
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    as_of: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRef(Ref):
    """Several evaluated versions of one model, side by side; table and picture lie under ``uri``."""

    kind: ClassVar[str] = "comparison"
    model: str
    digest: str
    uri: str
    sentences: list[str]
    """Which method is best with so many labels, and what the others take to reach it."""
    rows: list[dict[str, Any]]
    """``{"method", "train_rows", "draws", "accuracy", "low", "high"}``, the best method first."""


def version_of(uri: str) -> tuple[str, int] | None:
    """Return model and number of a base that is a version of this store, such as ``model://news@3``; None for any other."""
    name, _, number = uri.removeprefix("model://").partition("@")
    return (name, int(number)) if uri.startswith("model://") and number.isdigit() else None
