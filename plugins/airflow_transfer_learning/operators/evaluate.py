"""Compare a candidate with the live model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_transfer_learning.operators.base import SpecOperator, figures, with_task
from airflow_transfer_learning.operators.stored_features import Set, check_sets, fetch_sets, read_sets, stand_for
from transfer_learning.errors import BadInput, OutcomeUnknown
from transfer_learning.identity import fingerprint
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
        features: output of the run's ``FeatureExtractOperator``, all its shards: linear probes of that very base model answer
            from what is stored of the test rows (``test`` among ``FeatureSpec.splits``), in the precision of the extraction.
        notifiers: Airflow notifiers, called with the context and the ``verdict`` in it when the candidate does not pass.
        overrides: settings that change at run time.
        kwargs: as for every operator here.

    Returns:
        A ``VerdictRef`` as a dict.
    """

    template_fields: Sequence[str] = ("candidate", "dataset", "features", *SpecOperator.template_fields)
    plan_key = "evaluate"
    spec_class = EvaluateSpec

    def __init__(
        self,
        *,
        spec: EvaluateSpec | dict[str, Any],
        candidate: dict[str, Any],
        dataset: dict[str, Any],
        features: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        notifiers: Sequence[BaseNotifier] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(spec=spec, **kwargs)
        self.candidate = candidate
        self.dataset = dataset
        self.features = features
        self.notifiers = list(notifiers)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the verdict."""
        with self.clear_errors(), self.working() as work:
            store = self.open_store()
            candidate, dataset = self.read_candidate(store), DatasetRef.from_dict(self.dataset)
            manifest = store.datasets.manifest(dataset.name, dataset.digest)
            spec: EvaluateSpec = with_task(self.merged_spec(), manifest)
            champion, generation = self.champion(store, candidate.name, spec.alias, context)
            if champion == candidate.version:
                return self.unchanged(candidate, generation, context)
            sets = self.read_features(store, manifest)
            facts = self.facts(store, candidate, spec.alias, champion, generation, manifest, context)
            evaluation = self.evaluation_id(spec, facts, context)
            verdict = find_verdict(store, candidate, evaluation)
            if verdict is None:
                inputs = self.fetch(store, candidate, champion, dataset, work / "inputs")
                facts["answer_from_features"] = answering = self.probes(store, sets, facts)
                inputs |= fetch_sets(store, sets if answering else (), work / "features", self.open_cache())
                job = self.run_job("evaluate", spec, inputs, context, work=work / "job", facts=facts)
                self.check_stop()
                store.evaluations.write(candidate.name, candidate.version, evaluation, job.out)
                verdict = find_verdict(store, candidate, evaluation)
            ref = verdict_ref(candidate, verdict)
            self.announce(ref, context)
            return ref.to_dict()

    def read_candidate(self, store: Store) -> ModelRef:
        """Return the candidate, once it is sure that its number is its own."""
        candidate = ModelRef.from_dict(self.candidate)
        store.models.require(candidate)
        return candidate

    def read_features(self, store: Store, manifest: Mapping[str, Any]) -> list[Set]:
        """Return the manifests of the features, once it is sure that they are those of the test rows."""
        sets = read_sets(store, self.features)
        if sets:
            check_sets(sets, manifest, ("test",), "the evaluation")
        return sets

    def probes(self, store: Store, sets: Sequence[Set], facts: Mapping[str, Any]) -> list[str]:
        """Return which of candidate and champion answers from the stored features."""
        roles = [role for role in ("candidate", "champion") if facts[f"{role}_version"] is not None]
        manifests = {role: store.models.manifest(facts["model"], facts[f"{role}_version"]) for role in roles}
        return [role for role, manifest in manifests.items() if stand_for(sets, manifest["facts"])]

    def evaluation_id(self, spec: EvaluateSpec, facts: Mapping[str, Any], context: Context) -> str:
        """Return what makes an evaluation of this task the same one when the task runs again."""
        key = fingerprint("evaluate", spec, {name: str(facts[name]) for name in PINNED})
        return self.publish_id(context, facts["model"], key)[:16]

    def champion(self, store: Store, model: str, alias: str, context: Context) -> tuple[int | None, int | None]:
        """Return version and generation of the live model: as planned, or as the first try found them."""
        if self.plan is not None:
            return self.planned().champion, self.planned().champion_generation

        def read() -> list[int | None]:
            found = store.aliases.live(model, alias)
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
        alias: str,
        champion: int | None,
        generation: int | None,
        manifest: Mapping[str, Any],
        context: Context,
    ) -> dict[str, Any]:
        """Return what the verdict tells about its circumstances."""
        test = manifest["split_digests"].get("test", "")
        return {
            "model": candidate.name,
            "candidate_version": candidate.version,
            "champion_version": champion,
            "champion_generation": generation,
            "as_of": self.as_of(context),
            "champion_as_of": champion_time(store, candidate.name, alias, generation),
            "test_digest": test,
            "test_uses": store.evaluations.count_test_uses(candidate.name, test),
            "dataset": {name: manifest[name] for name in ("name", "digest", "rows", "splits")},
        }

    def fetch(
        self, store: Store, candidate: ModelRef, champion: int | None, dataset: DatasetRef, destination: Path
    ) -> dict[str, list[Path]]:
        """Bring models, ledgers and rows onto this machine, verified."""
        cache = self.open_cache()
        data, roles = destination / "data", ("train", "test")
        store.datasets.fetch(dataset.name, dataset.digest, destination=data, splits=roles, cache=cache)
        inputs = {role: [data / role] for role in roles if (data / role).is_dir()}
        for role, version in (("candidate", candidate.version), ("champion", champion)):
            if version is not None:
                inputs[role] = [store.models.fetch(candidate.name, version, destination / role, cache=cache)]
                self.open_bases(store).add_base(candidate.name, version, destination / role)
                inputs[f"{role}_ledger"] = fetch_ledgers(store, candidate.name, version, destination / f"{role}_ledger")
        if champion is not None:
            inputs |= self.fetch_champion_test(store, candidate.name, champion, dataset, destination / "champion_data")
        self.check_stop()
        return inputs

    def fetch_champion_test(
        self, store: Store, model: str, champion: int, dataset: DatasetRef, destination: Path
    ) -> dict[str, list[Path]]:
        """Bring the test rows of the champion's own data onto this machine, where they are others than the present ones."""
        known = store.models.manifest(model, champion)["facts"].get("dataset") or {}
        try:
            theirs = store.datasets.manifest(known["name"], known["digest"])["split_digests"].get("test")
            ours = store.datasets.manifest(dataset.name, dataset.digest)["split_digests"].get("test")
            if theirs in (None, ours):
                return {}
            store.datasets.fetch(
                known["name"], known["digest"], destination=destination, splits=("test",), cache=self.open_cache()
            )
        except (BadInput, KeyError) as error:
            self.log.warning("The champion's own test rows are no slice of this verdict: %s", error)
            return {}
        return {"champion_test": [destination / "test"]} if (destination / "test").is_dir() else {}

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


def champion_time(store: Store, model: str, alias: str, generation: int | None) -> str | None:
    """Return the time of the data behind one generation of the alias; it may have moved on since."""
    current = store.aliases.read(model, alias) if generation is not None else None
    if current is None or current.generation == generation:
        return current.as_of if current else None
    return next((past.as_of for past in store.aliases.history(model, alias) if past.generation == generation), None)


def find_verdict(store: Store, candidate: ModelRef, evaluation: str) -> dict[str, Any] | None:
    """Return the stored verdict of this very evaluation: a retry finds what the try before it wrote."""
    verdicts = store.evaluations.read(candidate.name, candidate.version)
    return next((verdict for verdict in verdicts if verdict["evaluation_id"].startswith(evaluation)), None)


def verdict_ref(candidate: ModelRef, verdict: Mapping[str, Any] | None) -> VerdictRef:
    """Return the small pointer to a stored verdict."""
    if verdict is None:
        raise OutcomeUnknown(f"STORE the verdict on version {candidate.version} of {candidate.name} cannot be read back")
    metrics, baselines = verdict["metrics"], verdict["metrics"]["baselines"]
    scores = {"": metrics["candidate"], "champion_": metrics["champion"], "baseline_": baselines["tfidf"]}
    fields = ("champion_generation", "passed", "decision", "sentences", "uri", "as_of")
    return VerdictRef(
        model=candidate.to_dict(),
        champion=verdict["champion_version"],
        metrics={f"{who}{name}": value for who, score in scores.items() for name, value in figures(score or {}).items()},
        **{name: verdict[name] for name in fields},
    )


def fetch_ledgers(store: Store, name: str, version: int, destination: Path) -> list[Path]:
    """Return two folders: with the ledger of a version itself, and with those of everything that it was trained from."""
    own, others = destination / "own", destination / "before"
    others.mkdir(parents=True)
    for path in store.models.fetch_ledger(name, version, own)[1:]:
        path.rename(others / path.name)
    return [own, others]
