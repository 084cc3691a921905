"""Adapt a base model to a dataset."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_transfer_learning.operators.base import with_task
from airflow_transfer_learning.operators.base_model import starting_point
from airflow_transfer_learning.operators.stored_features import (
    Set,
    check_for_training,
    check_single_texts,
    fetch_sets,
    merged,
    precisions,
    read_sets,
)
from airflow_transfer_learning.operators.training import TrainingOperator, parents
from transfer_learning.bases import BaseModel, Bases
from transfer_learning.errors import BadInput
from transfer_learning.identity import fingerprint
from transfer_learning.jobs import JobResult
from transfer_learning.model_files import layer_count
from transfer_learning.refs import DatasetRef, ModelRef, version_of
from transfer_learning.specs import FeatureSpec, FineTuneSpec, TaskSpec
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context


class FineTuneOperator(TrainingOperator):
    """Fine-tune a base model in a child process and publish it as a new version.

    Where the same settings, data and base were published before, that version is returned and nothing runs. So it is where
    training would go on from a version that has learned from these very rows under these settings already.

    Args:
        spec: a ``FineTuneSpec`` or a dict of its fields.
        dataset: output of the run's ``PullDatasetOperator``.
        plan: output of the run's ``PlanOperator``.
        model: name of the model in the store; not with a plan, which names it.
        base: URI of the base model; not with a plan, which pins it.
        features: output of the run's ``FeatureExtractOperator``, all its shards, for strategy ``linear_probe``: nothing but the
            head is then computed. Stored as ``float32`` they change nothing in the result.
        replay: output of another ``PullDatasetOperator`` with older rows, for ``FineTuneSpec.replay``; its training rows are
            drawn from, beside those of ``dataset`` that the starting version was trained on.
        force: train and publish even what was published before.
        overrides: settings that change at run time.
        kwargs: as for every operator here.

    Returns:
        A ``ModelRef`` as a dict.
    """

    template_fields: Sequence[str] = ("features", "replay", *TrainingOperator.template_fields)
    plan_key = stage = "fine_tune"
    spec_class = FineTuneSpec

    def __init__(
        self,
        *,
        spec: FineTuneSpec | dict[str, Any],
        features: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        replay: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(spec=spec, **kwargs)
        self.features = features
        self.replay = replay

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the version, new or found."""
        with self.clear_errors(), self.working() as work:
            store = self.open_store()
            dataset = DatasetRef.from_dict(self.dataset)
            manifest = store.datasets.manifest(dataset.name, dataset.digest)
            spec: FineTuneSpec = with_task(self.merged_spec(), manifest)
            model, base = self.model_name(), self.fetch_base(store, context, work / "base")
            sets = read_sets(store, self.features)
            spec = with_features(spec, sets, manifest, base)
            older = self.older(store, spec)
            rows = training_rows(manifest, sets, older)
            key = fingerprint("fine_tune", spec, rows | {"base": base.digest})
            facts = self.facts(context, model, base, dataset) | {"learned": fingerprint("fine_tune", spec, rows)}
            facts |= {"replay": {name: older[name] for name in ("name", "digest")}} if older is not None else {}
            if (found := self.find(store, model, key) or self.settled(store, spec, facts)) is None:
                inputs = self.fetch_rows(store, dataset, work / "data") | {"base": [base.folder]}
                inputs |= fetch_sets(store, sets, work / "features", self.open_cache())
                if spec.replay is not None or spec.goes_on:
                    inputs |= self.fetch_older(store, older, facts, work)
                if spec.strategy == "auto":
                    inputs |= fetch_base_ledger(store, base.uri, work / "base_ledger")
                found = self.train(store, context, key, as_extracted(spec, sets), inputs, work / "job", facts)
            return dataclasses.replace(found, as_of=self.as_of(context)).to_dict()

    def settled(self, store: Store, spec: FineTuneSpec, facts: Mapping[str, Any]) -> ModelRef | None:
        """Return the version that training would go on from, if it has learned from the same rows under the same settings."""
        for version in () if self.force or not spec.goes_on else parents(facts["model"], facts["base"]["uri"]):
            manifest = store.models.manifest(facts["model"], version)
            if manifest["facts"].get("learned") == facts["learned"]:
                self.log.info("Version %d of %s has learned from these rows already: nothing to do", version, facts["model"])
                return store.models.find(facts["model"], manifest["fingerprint"])
        return None

    def older(self, store: Store, spec: FineTuneSpec) -> Mapping[str, Any] | None:
        """Return the manifest of the dataset with older rows, if there is one.

        Raises:
            BadInput: there is one, and no share of it is wanted, or features are given; or a share of what can not be.
        """
        if self.replay is None:
            if spec.replay is not None and spec.init_from == "base":
                what = f"FineTuneSpec.replay is {spec.replay:g}, and where training starts from the base no row is an older one"
                raise BadInput("BAD_SETTING", what, "set init_from to 'champion' or 'latest', or pass replay, another dataset")
            return None
        if spec.replay is None:
            raise BadInput("BAD_SETTING", "replay is a dataset, and FineTuneSpec.replay says no share", "set it, such as to 0.5")
        if self.features:
            what = "features are those of the dataset's own rows, and replay brings rows of another one"
            raise BadInput("BAD_SETTING", what, "leave one of the two out")
        ref = DatasetRef.from_dict(self.replay)
        return store.datasets.manifest(ref.name, ref.digest)

    def fetch_older(
        self, store: Store, older: Mapping[str, Any] | None, facts: Mapping[str, Any], work: Path
    ) -> dict[str, list[Path]]:
        """Bring older rows onto this machine, and what tells them: the ledgers of the version that training goes on from."""
        found: dict[str, list[Path]] = {}
        if older is not None:
            folder = store.datasets.fetch(
                older["name"], older["digest"], destination=work / "replay", splits=("train",), cache=self.open_cache()
            )
            found["replay"] = [folder / "train"] if (folder / "train").is_dir() else []
        for version in parents(facts["model"], facts["base"]["uri"]):
            store.models.fetch_ledger(facts["model"], version, work / "ledger", own=True)
            found["ledger"] = [work / "ledger"]
        return found

    def publish(self, store: Store, context: Context, key: str, job: JobResult, facts: dict[str, Any]) -> ModelRef:
        """Publish the child's folder; its manifest tells what ``auto`` chose, where it did."""
        choice = json.loads((job.out / "model" / "passport.json").read_bytes()).get("choice")
        return super().publish(store, context, key, job, facts | ({"choice": choice} if choice else {}))

    def fetch_base(self, store: Store, context: Context, destination: Path) -> BaseModel:
        """Bring the base model onto this machine.

        Raises:
            BadInput: settings that start from the model's own version, and a base that this run has made.
        """
        spec = self.merged_spec()
        if isinstance(self.base, Mapping) and spec.goes_on:
            what = f"base is a model that this run has made, and init_from is {spec.init_from!r}"
            raise BadInput("BAD_SETTING", what, "leave one of the two out")
        return super().fetch_base(store, context, destination)

    def resolve_base(self, bases: Bases, uri: str) -> str:
        """Return the base model, or the version that the settings start from, pinned."""
        return starting_point(bases, uri, self.model_name(), self.merged_spec().init_from)

    def fetch_rows(self, store: Store, dataset: DatasetRef, destination: Path) -> dict[str, list[Path]]:
        """Bring the snapshot onto this machine; the test rows are not handed on."""
        roles = ("train", "validation")
        store.datasets.fetch(dataset.name, dataset.digest, destination=destination, splits=roles, cache=self.open_cache())
        return {role: [destination / role] for role in roles if (destination / role).is_dir()}


def fetch_base_ledger(store: Store, uri: str, destination: Path) -> dict[str, list[Path]]:
    """Bring what a base model was trained on onto this machine, where it is of this store: no other brings a ledger."""
    base = version_of(uri)
    if base is None:
        return {}
    store.models.fetch_ledger(*base, destination)
    return {"base_ledger": [destination]}


def with_features(spec: FineTuneSpec, sets: Sequence[Set], manifest: Mapping[str, Any], base: BaseModel) -> FineTuneSpec:
    """Return the settings with those of the features, if any, once it is sure that these are the right ones."""
    if not sets:
        return spec
    check_single_texts(spec.task or TaskSpec())
    spec = merged(spec, FeatureSpec.from_dict(sets[0]["spec"]), layer_count(base.folder))
    check_for_training(sets, spec.task or TaskSpec(), manifest, base.digest)
    return spec


def training_rows(manifest: Mapping[str, Any], sets: Sequence[Set], older: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what the result depends on beside settings and base: rows, and features only where they were rounded."""
    rows = {role: manifest["split_digests"].get(role, "") for role in ("train", "validation")}
    if sets and sets[0]["spec"]["dtype"] != "float32":
        rows["features"] = sets[0]["spec"]["dtype"]
    return rows | ({"replay": older["split_digests"].get("train", "")} if older is not None else {})


def as_extracted(spec: FineTuneSpec, sets: Sequence[Set]) -> FineTuneSpec:
    """Return the settings in the arithmetic that the features were computed in."""
    found = precisions(sets)
    return spec.merged({"precision": found[0]}) if found else spec
