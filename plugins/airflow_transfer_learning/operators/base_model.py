"""What the operators share that run a base model over a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_transfer_learning.operators.base import SpecOperator
from transfer_learning.bases import BaseModel, Bases
from transfer_learning.errors import BadInput
from transfer_learning.refs import ModelRef
from transfer_learning.settings import Settings
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context


class BaseModelOperator(SpecOperator):
    """Base of the operators that run a base model over a dataset.

    Args:
        spec: the settings, or a dict of them.
        dataset: output of the run's ``PullDatasetOperator``.
        base: URI of the base model; not with a plan, which pins it. Or the output of a task of this run that made a model, such
            as a ``PretrainOperator``: it comes before what a plan pinned.
        force: run even what was run before.
        kwargs: as for ``SpecOperator``.
    """

    template_fields: Sequence[str] = ("dataset", "base", *SpecOperator.template_fields)

    def __init__(
        self,
        *,
        spec: Settings | dict[str, Any],
        dataset: dict[str, Any],
        base: str | dict[str, Any] | None = None,
        force: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(spec=spec, **kwargs)
        self.dataset = dataset
        self.base = base
        self.force = force

    def fetch_base(self, store: Store, context: Context, destination: Path) -> BaseModel:
        """Bring the base model onto this machine: this run's own, the plan's, or what the first try resolved."""
        bases = self.open_bases(store)
        if isinstance(self.base, Mapping):
            made = ModelRef.from_dict(self.base)
            return bases.fetch(f"model://{made.name}@{made.version}", destination)
        uri = self.one_of("base", self.planned().base if self.plan else None)
        pinned = uri if self.plan else self.pinned(context, "base", lambda: self.resolve_base(bases, uri))
        return bases.fetch(pinned, destination)

    def resolve_base(self, bases: Bases, uri: str) -> str:
        """Return the base model with every movable part pinned."""
        return bases.resolve(uri)

    def one_of(self, name: str, planned: str | None) -> str:
        """Return what the plan or the operator names.

        Raises:
            BadInput: neither does, or both do and differ.
        """
        own: str | None = getattr(self, name)
        if own is not None and planned is not None and own != planned:
            raise BadInput("BAD_SETTING", f"{name} is {own!r} here and {planned!r} in the plan", "leave it to the plan")
        if (value := planned or own) is None:
            raise BadInput("MISSING_SETTING", f"task {self.task_id} needs {name}", f"pass plan, or {name}")
        return value


def starting_point(bases: Bases, uri: str, model: str, init_from: str, alias: str = "champion") -> str:
    """Return where a training starts, pinned: the base model, or the model's own newest or live version where there is one.

    From scratch it is the base model too, whose architecture and tokenizer are taken.
    """
    if init_from in ("base", "scratch"):
        return bases.resolve(uri)
    try:
        return bases.resolve(f"model://{model}@{alias if init_from == 'champion' else init_from}")
    except BadInput as error:
        if error.code not in ("NO_VERSION", "NO_ALIAS"):
            raise
    return bases.resolve(uri)
