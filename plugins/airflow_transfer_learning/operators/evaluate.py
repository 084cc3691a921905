"""Compare a candidate with the live model."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_transfer_learning.operators.base import SpecOperator, figures
from transfer_learning.jobs import JobResult, fingerprint
from transfer_learning.refs import DatasetRef, ModelRef, VerdictRef
from transfer_learning.specs import EvaluateSpec
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import BaseNotifier, Context


PINNED = ("candidate_version", "champion_version", "champion_generation", "test_digest")
"""The facts that make an evaluation this one."""


class EvaluateOperator(SpecOperator):
    """Score candidate and champion on the same test rows, apply the gate, and store the evidence.

    A refused candidate is no failure of the run: the task succeeds, the verdict says why, and ``notifiers`` announce it.

    Args:
        spec: an ``EvaluateSpec`` or a dict of its fields.
        candidate: output of the run's ``FineTuneOperator``.
        dataset: output of its ``PullDatasetOperator``.
        plan: output of its ``PlanOperator``, whose champion is compared with; without it, the champion of the first try.
        notifiers: Airflow notifiers, called with the context and the ``verdict`` in it when the candidate does not pass.
        overrides: settings that change at run time.
        kwargs: as for every operator here.

    Returns:
        A ``VerdictRef`` as a dict.
    """

    template_fields: Sequence[str] = ("candidate", "dataset", *SpecOperator.template_fields)
    plan_key = "evaluate"
    spec_class = EvaluateSpec

    def __init__(
        self,
        *,
        spec: EvaluateSpec | dict[str, Any],
        candidate: dict[str, Any],
        dataset: dict[str, Any],
        notifiers: Sequence[BaseNotifier] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(spec=spec, **kwargs)
        self.candidate = candidate
        self.dataset = dataset
        self.notifiers = list(notifiers)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the verdict."""
        with self.clear_errors(), self.working() as work:
            spec: EvaluateSpec = self.merged_spec()
            store = self.open_store()
            candidate, dataset = ModelRef.from_dict(self.candidate), DatasetRef.from_dict(self.dataset)
            champion, generation = self.champion(store, candidate.name, spec.alias, context)
            if champion == candidate.version:
                return self.unchanged(candidate, generation, context)
            manifest = store.datasets.manifest(dataset.name, dataset.digest)
            facts = self.facts(store, candidate, champion, generation, manifest, context)
            inputs = self.fetch(store, candidate, champion, dataset, work / "inputs")
            job = self.run_job("evaluate", spec, inputs, context, work=work / "job", facts=facts)
            self.check_stop()
            key = fingerprint("evaluate", spec, {name: str(facts[name]) for name in PINNED})
            evaluation = self.publish_id(context, candidate.name, key)[:16]
            uri = store.evaluations.write(candidate.name, candidate.version, evaluation, job.out)
            verdict = verdict_ref(candidate, job, uri)
            self.announce(verdict, context)
            return verdict.to_dict()

    def champion(self, store: Store, model: str, alias: str, context: Context) -> tuple[int | None, int | None]:
        """Return version and generation of the live model: as planned, or as the first try found them."""
        if self.plan is not None:
            return self.planned().champion, self.planned().champion_generation

        def read() -> list[int | None]:
            found = store.aliases.read(model, alias)
            return [None, None] if found is None else [found.version, found.generation]

        version, generation = self.pinned(context, "champion", read)
        return version, generation

    def unchanged(self, candidate: ModelRef, generation: int | None, context: Context) -> dict[str, Any]:
        """Return the verdict on a candidate that is the live model already."""
        sentence = f"Version {candidate.version} of {candidate.name} is the live model already: nothing to compare."
        self.log.info("%s", sentence)
        return VerdictRef(
            model=candidate.to_dict(),
            champion=candidate.version,
            champion_generation=generation,
            passed=False,
            decision="unchanged",
            sentences=[sentence],
            uri=candidate.uri,
            as_of=self.as_of(context),
        ).to_dict()

    def facts(
        self,
        store: Store,
        candidate: ModelRef,
        champion: int | None,
        generation: int | None,
        manifest: Mapping[str, Any],
        context: Context,
    ) -> dict[str, Any]:
        """Return what the verdict tells about its circumstances."""
        test = manifest["split_digests"].get("test", "")
        moves = store.aliases.history(candidate.name, self.merged_spec().alias) if champion is not None else []
        return {
            "model": candidate.name,
            "candidate_version": candidate.version,
            "champion_version": champion,
            "champion_generation": generation,
            "as_of": self.as_of(context),
            "champion_as_of": next((move.as_of for move in moves if move.generation == generation), None),
            "test_digest": test,
            "test_uses": store.evaluations.count_test_uses(candidate.name, test),
            "dataset": {name: manifest[name] for name in ("name", "digest", "rows", "splits")},
        }

    def fetch(
        self, store: Store, candidate: ModelRef, champion: int | None, dataset: DatasetRef, destination: Path
    ) -> dict[str, list[Path]]:
        """Bring models, ledgers and rows onto this machine, verified."""
        cache = self.open_cache()
        data = destination / "data"
        store.datasets.fetch(dataset.name, dataset.digest, destination=data, cache=cache)
        inputs = {role: [data / role] for role in ("train", "test") if (data / role).is_dir()}
        for role, version in (("candidate", candidate.version), ("champion", champion)):
            if version is not None:
                inputs[role] = [store.models.fetch(candidate.name, version, destination / role, cache=cache)]
                inputs[f"{role}_ledger"] = ledger = [destination / f"{role}_ledger"]
                ledger[0].mkdir()
                store.models.fetch_ledger(candidate.name, version, ledger[0])
        self.check_stop()
        return inputs

    def announce(self, verdict: VerdictRef, context: Context) -> None:
        """Log the verdict, and tell the notifiers where the candidate did not pass."""
        self.log.log(
            logging.INFO if verdict.passed else logging.WARNING, "%s: %s", verdict.decision, "\n  ".join(["", *verdict.sentences])
        )
        if verdict.passed:
            return
        for notifier in self.notifiers:
            try:
                notifier(cast("Context", {**context, "verdict": verdict.to_dict()}))
            except Exception as error:  # the verdict stands, whoever could not be told
                self.log.error("%s could not announce it: %s", type(notifier).__name__, error)


def verdict_ref(candidate: ModelRef, job: JobResult, uri: str) -> VerdictRef:
    """Return the small pointer to a verdict."""
    verdict = json.loads((job.out / "verdict.json").read_text(encoding="utf-8"))
    fields = ("champion_generation", "passed", "decision", "sentences", "as_of")
    return VerdictRef(
        model=candidate.to_dict(),
        champion=verdict["champion_version"],
        uri=uri,
        metrics=figures(job.metrics),
        **{name: verdict[name] for name in fields},
    )
