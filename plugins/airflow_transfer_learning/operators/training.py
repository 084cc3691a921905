"""What the operators share that train a model and publish it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_transfer_learning.operators.base_model import BaseModelOperator
from transfer_learning.bases import BaseModel
from transfer_learning.errors import HostOutOfMemory
from transfer_learning.jobs import JobResult
from transfer_learning.refs import DatasetRef, ModelRef, version_of
from transfer_learning.settings import Settings
from transfer_learning.specs import check_name
from transfer_learning.store import Store

if TYPE_CHECKING:
    from airflow.sdk import Context

ROWS = 16
"""Rows to a micro-batch where neither settings nor progress tell."""


class TrainingOperator(BaseModelOperator):
    """Base of the operators that train a model in a child process and publish it as a new version.

    Args:
        spec: the settings, or a dict of them; they have ``batch_size`` and ``micro_batch``.
        model: name of the model in the store.
        kwargs: as for ``BaseModelOperator``.
    """

    template_fields: Sequence[str] = ("model", *BaseModelOperator.template_fields)
    stage: ClassVar[str]
    """Which one trains."""

    def __init__(self, *, spec: Settings | dict[str, Any], model: str | None = None, **kwargs: Any) -> None:
        super().__init__(spec=spec, **kwargs)
        self.model = model

    def model_name(self) -> str:
        """Return the model's name: the plan's, or the operator's own."""
        return check_name(self.one_of("model", self.planned().model if self.plan else None), "model name")

    def find(self, store: Store, model: str, key: str) -> ModelRef | None:
        """Return the version that the same training has published before, unless this one is forced."""
        found = None if self.force else store.models.find(model, key)
        if found is not None:
            self.log.info("Version %d of %s is this very training: nothing to do", found.version, model)
        return found

    def train(
        self,
        store: Store,
        context: Context,
        key: str,
        spec: Any,
        inputs: dict[str, list[Path]],
        work: Path,
        facts: dict[str, Any],
    ) -> ModelRef:
        """Train under the job's lease, from the newest checkpoint of an earlier attempt, and publish."""
        with self.attempt(store, context, key) as attempt:
            if (found := self.find(store, facts["model"], key)) is not None:  # by the attempt that held the lease before
                attempt.finish()  # it may have been killed between the two
                return found
            store.models.check(facts["model"])
            with self.fitting(spec, context) as fitting:
                job = self.run_job(self.stage, fitting, inputs, context, work=work, facts=facts, attempt=attempt)
            self.check_stop()
            ref = self.publish(store, context, key, job, facts | {"spec": spec.to_dict()})
            attempt.finish()
            return ref

    @contextlib.contextmanager
    def fitting(self, spec: Any, context: Context) -> Iterator[Any]:
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

    def facts(self, context: Context, model: str, base: BaseModel | None, dataset: DatasetRef) -> dict[str, Any]:
        """Return what the model card and the manifest tell about this training; without a base it starts from scratch."""
        return {
            "model": model,
            "base": {} if base is None else {"uri": base.uri, "digest": base.digest},
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
            parents=parents(model, facts["base"].get("uri", "")),
            force=self.force,
            log=self.log.info,
        )
        self.log.info("Published version %d of %s at %s: %d bytes uploaded", ref.version, model, ref.uri, uploaded)
        return ref


def parents(model: str, base_uri: str) -> list[int]:
    """Return the version of this same model that the training started from, whose ledger then counts too."""
    base = version_of(base_uri)
    return [base[1]] if base and base[0] == model else []
