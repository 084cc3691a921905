"""Adapt a base model to a dataset."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_transfer_learning.operators.base import with_task
from airflow_transfer_learning.operators.base_model import BaseModelOperator, starting_point
from airflow_transfer_learning.operators.stored_features import Set, check_for_training, fetch_sets, merged, precisions, read_sets
from transfer_learning.bases import BaseModel, Bases
from transfer_learning.errors import BadInput, HostOutOfMemory
from transfer_learning.identity import fingerprint
from transfer_learning.jobs import JobResult
from transfer_learning.refs import DatasetRef, ModelRef
from transfer_learning.specs import FeatureSpec, FineTuneSpec, TaskSpec, check_name
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context

ROWS = 16
"""Rows to a micro-batch where neither settings nor progress tell."""


class FineTuneOperator(BaseModelOperator):
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

    template_fields: Sequence[str] = ("model", "features", "replay", *BaseModelOperator.template_fields)
    plan_key = "fine_tune"
    spec_class = FineTuneSpec

    def __init__(
        self,
        *,
        spec: FineTuneSpec | dict[str, Any],
        model: str | None = None,
        features: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
        replay: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(spec=spec, **kwargs)
        self.model = model
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
            spec = with_features(spec, sets, manifest, base.digest)
            older = self.older(store, spec)
            rows = training_rows(manifest, sets, older)
            key = fingerprint("fine_tune", spec, rows | {"base": base.digest})
            facts = self.facts(context, model, base, dataset) | {"learned": fingerprint("fine_tune", spec, rows)}
            facts |= {"replay": {name: older[name] for name in ("name", "digest")}} if older is not None else {}
            if (found := self.find(store, model, key) or self.settled(store, spec, facts)) is None:
                inputs = self.fetch_rows(store, dataset, work / "data") | {"base": [base.folder]}
                inputs |= fetch_sets(store, sets, work / "features", self.open_cache())
                if spec.replay is not None:
                    inputs |= self.fetch_older(store, older, facts, work)
                found = self.train(store, context, key, as_extracted(spec, sets), inputs, work / "job", facts)
            return dataclasses.replace(found, as_of=self.as_of(context)).to_dict()

    def find(self, store: Store, model: str, key: str) -> ModelRef | None:
        """Return the version that the same training has published before, unless this one is forced."""
        found = None if self.force else store.models.find(model, key)
        if found is not None:
            self.log.info("Version %d of %s is this very training: nothing to do", found.version, model)
        return found

    def settled(self, store: Store, spec: FineTuneSpec, facts: Mapping[str, Any]) -> ModelRef | None:
        """Return the version that training would go on from, if it has learned from the same rows under the same settings."""
        for version in () if self.force or spec.init_from == "base" else parents(facts["model"], facts["base"]["uri"]):
            manifest = store.models.manifest(facts["model"], version)
            if manifest["facts"].get("learned") == facts["learned"]:
                self.log.info("Version %d of %s has learned from these rows already: nothing to do", version, facts["model"])
                return store.models.find(facts["model"], manifest["fingerprint"])
        return None

    def older(self, store: Store, spec: FineTuneSpec) -> Mapping[str, Any] | None:
        """Return the manifest of the dataset with older rows, if there is one.

        Raises:
            BadInput: there is one, and no share of it is wanted; or a share of what can not be.
        """
        if self.replay is None:
            if spec.replay is not None and spec.init_from == "base":
                what = f"FineTuneSpec.replay is {spec.replay:g}, and where training starts from the base no row is an older one"
                raise BadInput("BAD_SETTING", what, "set init_from to 'champion' or 'latest', or pass replay, another dataset")
            return None
        if spec.replay is None:
            raise BadInput("BAD_SETTING", "replay is a dataset, and FineTuneSpec.replay says no share", "set it, such as to 0.5")
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
            store.models.fetch_ledger(facts["model"], version, work / "ledger")
            found["ledger"] = [work / "ledger"]
        return found

    def train(
        self,
        store: Store,
        context: Context,
        key: str,
        spec: FineTuneSpec,
        inputs: dict[str, list[Path]],
        work: Path,
        facts: dict[str, Any],
    ) -> ModelRef:
        """Train under the job's lease, from the newest checkpoint of an earlier attempt, and publish."""
        with self.attempt(store, context, key) as attempt:
            if (found := self.find(store, facts["model"], key)) is not None:  # by the attempt that held the lease before
                attempt.finish()  # it may have been killed between the two
                return found
            with self.fitting(spec, context) as fitting:
                job = self.run_job("fine_tune", fitting, inputs, context, work=work, facts=facts, attempt=attempt)
            self.check_stop()
            ref = self.publish(store, context, key, job, facts | {"spec": spec.to_dict()})
            attempt.finish()
            return ref

    @contextlib.contextmanager
    def fitting(self, spec: FineTuneSpec, context: Context) -> Iterator[FineTuneSpec]:
        """Give the settings with half the micro-batch of a try that was killed because the machine's memory ran out."""
        state: Any = context.get("task_state_store")
        fits = state.get("micro_batch") if state is not None else None
        try:
            yield spec if fits is None else dataclasses.replace(spec, micro_batch=min(fits, spec.micro_batch or fits))
        except HostOutOfMemory:
            if state is not None:
                # A try that was killed before it told anything left the figures of the try before it.
                tried = [size for size in ((state.get("progress") or {}).get("micro_batch"), fits) if size]
                used = min(tried, default=spec.micro_batch or spec.batch_size or ROWS)
                state.set("micro_batch", max(1, used // 2))
                self.log.warning("The next try starts with a micro-batch of %d rows", max(1, used // 2))
            raise

    def model_name(self) -> str:
        """Return the model's name: the plan's, or the operator's own."""
        return check_name(self.one_of("model", self.planned().model if self.plan else None), "model name")

    def resolve_base(self, bases: Bases, uri: str) -> str:
        """Return the base model, or the version that the settings start from, pinned."""
        return starting_point(bases, uri, self.model_name(), self.merged_spec().init_from)

    def fetch_rows(self, store: Store, dataset: DatasetRef, destination: Path) -> dict[str, list[Path]]:
        """Bring the snapshot onto this machine; the test rows are not handed on."""
        roles = ("train", "validation")
        store.datasets.fetch(dataset.name, dataset.digest, destination=destination, splits=roles, cache=self.open_cache())
        return {role: [destination / role] for role in roles if (destination / role).is_dir()}

    def facts(self, context: Context, model: str, base: BaseModel, dataset: DatasetRef) -> dict[str, Any]:
        """Return what the model card and the manifest tell about this training."""
        return {
            "model": model,
            "base": {"uri": base.uri, "digest": base.digest},
            "dataset": {"name": dataset.name, "digest": dataset.digest, "rows": dataset.rows, "splits": dataset.splits},
            "as_of": self.as_of(context),
            "dag": context["ti"].dag_id,
            "run": context["ti"].run_id,
        }

    def publish(self, store: Store, context: Context, key: str, job: JobResult, facts: dict[str, Any]) -> ModelRef:
        """Publish the child's folder and return its version."""
        model = facts["model"]
        ref, uploaded = store.models.publish(
            name=model,
            folder=job.out / "model",
            publish_id=self.publish_id(context, model, key),
            fingerprint=key,
            facts=facts | {"metrics": job.metrics, "numerics": job.numerics, "seconds": job.seconds},
            ledger=job.out / "ledger.parquet",
            parents=parents(model, facts["base"]["uri"]),
            force=self.force,
            log=self.log.info,
        )
        self.log.info("Published version %d of %s at %s: %d bytes uploaded", ref.version, model, ref.uri, uploaded)
        return ref


def with_features(spec: FineTuneSpec, sets: Sequence[Set], manifest: Mapping[str, Any], base: str) -> FineTuneSpec:
    """Return the settings with those of the features, if any, once it is sure that these are the right ones."""
    if not sets:
        return spec
    spec = merged(spec, FeatureSpec.from_dict(sets[0]["spec"]))
    check_for_training(sets, spec.task or TaskSpec(), manifest, base)
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


def parents(model: str, base_uri: str) -> list[int]:
    """Return the version of this same model that the training started from, whose ledger then counts too."""
    name, _, version = base_uri.removeprefix("model://").partition("@")
    return [int(version)] if base_uri.startswith("model://") and name == model else []
