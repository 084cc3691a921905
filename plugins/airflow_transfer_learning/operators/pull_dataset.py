"""Bring rows into a snapshot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_transfer_learning.hooks.model_store import ModelStoreHook
from airflow_transfer_learning.hooks.sql import stream_batches
from airflow_transfer_learning.operators.base import SpecOperator, fixed_window, run_actor
from transfer_learning.errors import StoreUnreachable
from transfer_learning.refs import DatasetRef
from transfer_learning.sources import stage_sources
from transfer_learning.specs import PullSpec
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context


class PullDatasetOperator(SpecOperator):
    """Bring rows from files, object storage, SQL or the hub into an immutable, split snapshot in the store.

    The parsing runs in a child under the spec's memory and processor limits. Pulling unchanged data returns the same snapshot
    and writes nothing.

    Args:
        spec: a ``PullSpec`` or a dict of its fields.
        plan: output of the run's ``PlanOperator``.
        overrides: settings that change at run time.
        kwargs: as for every operator here.

    Returns:
        A ``DatasetRef`` as a dict.
    """

    template_fields: Sequence[str] = SpecOperator.template_fields
    plan_key = "pull"
    spec_class = PullSpec

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the snapshot."""
        with self.clear_errors(), self.working() as work:
            spec: PullSpec = self.merged_spec()
            store = self.open_store()
            as_of = self.as_of(context)
            window = self.planned().window if self.plan else fixed_window(spec, as_of)
            self.stage(spec, work / "source", window)
            reset = is_new_reset(spec, store)  # before the rule: another try's reset may end between the two
            rule = store.datasets.rule(spec.name)
            facts = {"as_of": as_of, "window": window, "rule": rule, "reset": reset and rule is not None}
            inputs = {"source": [work / "source"], **self.previous(spec, store, work / "previous")}
            limits = {"memory_mb": spec.memory_limit_mb, "cpu_seconds": spec.cpu_limit_seconds}
            job = self.run_job("pull_dataset", spec, inputs, context, work=work / "job", facts=facts, limits=limits)
            self.check_stop()
            manifest, uploaded = self.publish(spec, store, facts, job.out, context)
            self.log.info(
                "Snapshot %s of %s: %s, %d bytes uploaded", manifest["digest"][:12], spec.name, manifest["splits"], uploaded
            )
            return dataset_ref(manifest, as_of).to_dict()

    def stage(self, spec: PullSpec, destination: Path, window: dict[str, str] | None) -> None:
        """Bring the sources onto this machine."""
        needs_s3 = any(uri.startswith("s3://") for uri in spec.sources())
        renew = ModelStoreHook(self.store_conn_id).source_client
        client = renew() if needs_s3 else None
        stage_sources(spec, destination, s3_client=client, renew=renew, sql=stream_batches, window=window, log=self.log.info)
        self.check_stop()

    def previous(self, spec: PullSpec, store: Store, destination: Path) -> dict[str, list[Path]]:
        """Bring the newest snapshot onto this machine, whose unchanged parts the new one keeps."""
        newest = store.datasets.latest(spec.name)
        if newest is None:
            return {}
        store.datasets.fetch(spec.name, newest["digest"], destination=destination, cache=self.open_cache())
        return {"previous": [destination]}

    def publish(
        self, spec: PullSpec, store: Store, facts: Mapping[str, Any], out: Path, context: Context
    ) -> tuple[dict[str, Any], int]:
        """Publish the snapshot; the split rule of a first one comes before it.

        A reset comes after it: a try that dies between the two leaves what the next one does in the same way.

        Raises:
            StoreUnreachable: another run fixed another rule in the meantime; a retry takes that one.
        """
        rule = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["rule"]
        if not facts["reset"] and store.datasets.fix_rule(spec.name, rule) != rule and facts["rule"] is None:
            raise StoreUnreachable(f"RULE another run fixed another split rule of {spec.name} just now; a retry takes it")
        published = store.datasets.publish(spec.name, out)
        if facts["reset"]:
            store.datasets.reset_rule(spec.name, rule, reason=spec.reset_split or "", actor=run_actor(context))
        return published


def is_new_reset(spec: PullSpec, store: Store) -> bool:
    """Return whether this run must reset the split rule: a reason that stays in the settings counts once."""
    return spec.reset_split is not None and spec.reset_split not in store.datasets.resets(spec.name)


def dataset_ref(manifest: Mapping[str, Any], as_of: str) -> DatasetRef:
    """Return the small pointer to a snapshot."""
    return DatasetRef(
        name=manifest["name"],
        digest=manifest["digest"],
        rows=manifest["rows"],
        splits=manifest["splits"],
        schema=manifest["schema"],
        as_of=as_of,
    )
