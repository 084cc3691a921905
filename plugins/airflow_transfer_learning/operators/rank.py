"""Rank base models for a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_transfer_learning.operators.base import SpecOperator, with_task
from transfer_learning.bases import BaseModel
from transfer_learning.errors import BadInput
from transfer_learning.refs import DatasetRef
from transfer_learning.settings import Settings
from transfer_learning.specs import RankSpec
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context


class RankBasesOperator(SpecOperator):
    """Measure several base models on some of a dataset's training rows, before any GPU is taken: nothing is trained.

    It takes seconds for each small base on a processor, so it needs no training queue. What it returns names the best base
    pinned, for the tasks behind it: ``PlanOperator(base="{{ ti.xcom_pull('rank')['best']['base'] }}")``, or the ``base`` of a
    ``FineTuneOperator`` without a plan.

    Args:
        dataset: output of the run's ``PullDatasetOperator``.
        bases: URIs of the base models.
        spec: a ``RankSpec`` or a dict of its fields.
        plan: output of the run's ``PlanOperator``.
        overrides: settings that change at run time.
        kwargs: as for every operator here.

    Returns:
        A dict: ``best`` (``base``, ``layer``), and ``ranking``, the best base first: ``base``, ``digest``, ``place``,
        ``best_layer``, ``layers`` (``number``, ``logme``, ``probe`` with ``mean`` and ``error``), ``untrained`` (the same probe
        on random weights), ``tokens`` (shares ``unknown`` and ``broken``), ``sampled`` (rows). What is unknown is None.
    """

    template_fields: Sequence[str] = ("dataset", "bases", *SpecOperator.template_fields)
    plan_key = "rank"
    spec_class = RankSpec

    def __init__(
        self,
        *,
        dataset: dict[str, Any],
        bases: Sequence[str],
        spec: Settings | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(spec=RankSpec() if spec is None else spec, **kwargs)
        self.dataset = dataset
        self.bases = bases

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the ranking."""
        with self.clear_errors(), self.working() as work:
            store = self.open_store()
            dataset = DatasetRef.from_dict(self.dataset)
            spec: RankSpec = with_task(self.merged_spec(), store.datasets.manifest(dataset.name, dataset.digest))
            bases = self.fetch_bases(store, context, work)
            data = store.datasets.fetch(
                dataset.name, dataset.digest, destination=work / "data", splits=("train",), cache=self.open_cache()
            )
            train = [data / "train"] if (data / "train").is_dir() else []
            inputs = {"train": train, "base": [base.folder for base in bases]}
            job = self.run_job("rank", spec, inputs, context, work=work / "job")
            ranking = ranked(bases, json.loads((job.out / "ranking.json").read_text(encoding="utf-8")))
            self.log.info("%s", table(ranking))
            best = {"base": ranking[0]["base"], "layer": ranking[0]["best_layer"]}
            return {"kind": "ranking", "best": best, "ranking": ranking}

    def fetch_bases(self, store: Store, context: Context, work: Path) -> list[BaseModel]:
        """Bring the base models onto this machine, pinned by the first try.

        Raises:
            BadInput: no base is named, or what names them is no list.
        """
        if isinstance(self.bases, str) or not self.bases:
            raise BadInput("BAD_SETTING", f"bases is {str(self.bases)[:80]!r}", "pass a list of URIs of base models")
        found = self.open_bases(store)
        pinned = self.pinned(context, "bases", lambda: [found.resolve(uri) for uri in self.bases])
        return [found.fetch(uri, work / f"base-{number}") for number, uri in enumerate(pinned)]


def ranked(bases: Sequence[BaseModel], entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what was measured of each base, the best first."""
    named = [{"base": base.uri, "digest": base.digest, **entry} for base, entry in zip(bases, entries, strict=True)]
    return sorted(named, key=lambda entry: entry["place"])


def table(ranking: Sequence[Mapping[str, Any]]) -> str:
    """Return the ranking as text: a line for each base, and one for each of its layers."""
    lines = [f"Ranked by LogME, on {ranking[0]['sampled']:,} rows:"]
    for entry in ranking:
        tokens = ", ".join(f"{name} {_share(entry['tokens'][name])}" for name in ("broken", "unknown"))
        random = _accuracy(entry["untrained"])
        lines.append(f"{entry['place']}. {entry['base']}: best layer {entry['best_layer']}; random weights {random}; {tokens}")
        lines += [
            f"     layer {layer['number']:>2}  LogME {layer['logme']:>7.3f}  probe {_accuracy(layer['probe'])}"
            for layer in entry["layers"]
        ]
    return "\n".join(lines)


def _accuracy(value: Mapping[str, float] | None) -> str:
    return "unknown" if value is None else f"{value['mean']:.3f} +- {value['error']:.3f}"


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1%}"
