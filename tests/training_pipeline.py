"""A tiny base, a dataset of headlines in the store behind the default connection, and the operators that train on them."""

from __future__ import annotations

import airflow_env  # noqa: F401  first of all

# isort: split
from pathlib import Path
from typing import Any

from airflow_task import Task
from airflow_transfer_learning.operators import EvaluateOperator, FineTuneOperator, PullDatasetOperator
from tiny_pipeline import ROLES, write_base, write_csv


class Pipeline:
    """The pull has run; operators on what it gave are made as a test wants them.

    Args:
        folder: a fresh one.
        rows: of the dataset; half of them are test rows.
        spec: of a fine-tuning where no other is named.
    """

    def __init__(self, folder: Path, rows: list[dict[str, str]], spec: dict[str, Any] | None = None) -> None:
        self.folder, self.base, self.spec = folder, write_base(folder / "base"), spec or {}
        self.dataset = self.pull(rows)

    def pull(self, rows: list[dict[str, str]]) -> dict[str, Any]:
        source = write_csv(self.folder / "news.csv", rows)
        spec = {"name": "news", "source": source, "task": ROLES, "split": {"test": 0.5}}
        return Task().run(PullDatasetOperator(task_id="pull", spec=spec))[0]

    def fine_tune(self, **options: Any) -> FineTuneOperator:
        complete = {"task_id": "train", "spec": self.spec, "dataset": self.dataset, "model": "news", "base": self.base}
        return FineTuneOperator(**complete | options)

    def evaluate(self, candidate: dict[str, Any], **options: Any) -> EvaluateOperator:
        complete = {"task_id": "evaluate", "spec": {}, "candidate": candidate, "dataset": self.dataset}
        return EvaluateOperator(**complete | options)
