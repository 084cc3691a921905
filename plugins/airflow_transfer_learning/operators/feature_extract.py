"""Extract features of a frozen base model."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_transfer_learning.operators.base import with_task
from airflow_transfer_learning.operators.base_model import BaseModelOperator
from airflow_transfer_learning.operators.stored_features import check_inputs
from transfer_learning.attempts import PartUploads
from transfer_learning.bases import BaseModel
from transfer_learning.errors import BadInput
from transfer_learning.feature_files import wanted_hashes
from transfer_learning.identity import features_key, fingerprint
from transfer_learning.model_files import layer_count
from transfer_learning.refs import DatasetRef, FeaturesRef
from transfer_learning.specs import FeatureSpec
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context


EMPTY: dict[str, Any] = {"precision": None, "width": 0, "rows": 0, "parts": []}
"""The features of a shard that no row fell into, as happens with few rows and many shards."""

UNLABELLED = ("unlabelled-train", "unlabelled-validation", "unlabelled-test")
"""Folders of a snapshot with the rows that have no label."""


class FeatureExtractOperator(BaseModelOperator):
    """Run the rows of a dataset through a frozen base model in a child process, and keep their features in the store.

    A row whose features are in the store is never computed again, whatever dataset, run or shard it came with. Mapped over
    shards, several workers take a part of the rows each: ``partial(...).expand(shard=[[0, 4], [1, 4], [2, 4], [3, 4]])``.

    Args:
        spec: a ``FeatureSpec`` or a dict of its fields.
        dataset: output of the run's ``PullDatasetOperator``.
        shard: ``[i, n]``, in the place of the spec's.
        plan: output of the run's ``PlanOperator``.
        base: URI of the base model; not with a plan, which pins it.
        force: look at every part again even where these very features were extracted before.
        overrides: settings that change at run time.
        kwargs: as for every operator here.

    Returns:
        A ``FeaturesRef`` as a dict.
    """

    template_fields: Sequence[str] = ("shard", *BaseModelOperator.template_fields)
    plan_key = "features"
    spec_class = FeatureSpec

    def __init__(self, *, spec: FeatureSpec | dict[str, Any], shard: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(spec=spec, **kwargs)
        self.shard = shard

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the features, new or found."""
        with self.clear_errors(), self.working() as work:
            store = self.open_store()
            dataset = DatasetRef.from_dict(self.dataset)
            manifest = store.datasets.manifest(dataset.name, dataset.digest)
            spec: FeatureSpec = with_task(self.merged_spec(), manifest)
            if spec.task is not None:
                check_inputs(spec.task, manifest["task"])
            base = self.fetch_base(store, context, work / "base")
            digest = fingerprint("feature_extract", spec, {"dataset": dataset.digest, "base": base.digest})
            found = self.find(store, digest)
            if found is None:
                found = self.extract(store, context, digest, spec, dataset, base, work)
            return features_ref(digest, found, dataset).to_dict()

    def merged_spec(self) -> Any:
        """Return the spec with all overrides and the shard applied."""
        spec = super().merged_spec()
        return spec if self.shard is None else spec.merged({"shard": self.shard})

    def find(self, store: Store, digest: str) -> dict[str, Any] | None:
        """Return the set that the same extraction has published before, unless this one is forced."""
        found = None if self.force else store.features.find(digest)
        if found is not None:
            self.log.info("The features of these %d inputs are in the store: nothing to do", found["rows"])
        return found

    def extract(
        self,
        store: Store,
        context: Context,
        digest: str,
        spec: FeatureSpec,
        dataset: DatasetRef,
        base: BaseModel,
        work: Path,
    ) -> dict[str, Any]:
        """Compute what the store lacks under the job's lease, and publish the set."""
        with self.attempt(store, context, digest) as attempt:
            if (found := self.find(store, digest)) is not None:  # by the attempt that held the lease before
                return found
            key = features_key(spec, base.digest, layer_count(base.folder))
            rows = self.fetch_rows(store, spec, dataset, work / "data")
            parts = (part for folders in rows.values() for folder in folders for part in folder.glob("*.parquet"))
            wanted = wanted_hashes(parts, spec.shard)
            if not len(wanted):
                return store.features.publish(digest, facts(key, spec, dataset, base) | EMPTY | {"digest": digest})
            store.features.stage(key, wanted, work / "cache", self.open_cache())
            self.check_stop()
            with PartUploads(work / "job" / "new_cache", functools.partial(store.features.put_part, key), self.stop) as uploads:

                def watch() -> None:
                    attempt.check_lease()
                    uploads.notice()

                inputs = rows | {"base": [base.folder]}
                job = self.run_job("feature_extract", spec, inputs, context, work=work / "job", cache=work / "cache", watch=watch)
            self.check_stop()
            made = json.loads((job.out / "manifest.json").read_text(encoding="utf-8"))
            self.log.info("Features of %d inputs: %d computed, %d found", made["rows"], made["computed"], made["found"])
            of_set = {name: made[name] for name in EMPTY}
            folders = (work / "job" / "new_cache", work / "cache")
            return store.features.publish(digest, facts(key, spec, dataset, base) | of_set | {"digest": digest}, folders)

    def fetch_rows(self, store: Store, spec: FeatureSpec, dataset: DatasetRef, destination: Path) -> dict[str, list[Path]]:
        """Bring the spec's splits onto this machine, and return the folders of each.

        Raises:
            BadInput: none of the splits has a row.
        """
        read = {str(role): UNLABELLED if role == "unlabelled" else (str(role),) for role in spec.splits}
        splits = [name for names in read.values() for name in names]
        store.datasets.fetch(dataset.name, dataset.digest, destination=destination, splits=splits, cache=self.open_cache())
        found = {role: [destination / name for name in names if (destination / name).is_dir()] for role, names in read.items()}
        found = {role: folders for role, folders in found.items() if folders}
        if not found:
            what = f"snapshot {dataset.digest[:12]} of {dataset.name} has no row in {', '.join(spec.splits)}"
            raise BadInput("NO_ROWS", what, f"set splits; it has {', '.join(dataset.splits)}")
        return found


def facts(key: str, spec: FeatureSpec, dataset: DatasetRef, base: BaseModel) -> dict[str, Any]:
    """Return what a set's manifest tells beside its parts."""
    return {
        "cache": key,
        "spec": spec.to_dict(),
        "dataset": {"name": dataset.name, "digest": dataset.digest},
        "base": {"uri": base.uri, "digest": base.digest},
    }


def features_ref(digest: str, manifest: Mapping[str, Any], dataset: DatasetRef) -> FeaturesRef:
    """Return the small pointer to a set; the same snapshot may have more than one name."""
    return FeaturesRef(
        digest=digest,
        dataset={"name": dataset.name, "digest": dataset.digest},
        backbone=manifest["base"]["digest"],
        rows=manifest["rows"],
        shard=list(manifest["spec"]["shard"]),
    )
