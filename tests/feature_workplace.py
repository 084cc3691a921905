"""A store with features in it, and the operators that make and take them, for one test or one file of tests."""

from __future__ import annotations

import airflow_env  # noqa: F401  first of all

# isort: split
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from airflow_task import Task
from airflow_transfer_learning.operators import FeatureExtractOperator, PullDatasetOperator
from tiny_pipeline import ROLES, headlines, write_csv
from transfer_learning.store import Store

EXACT = {"precision": "fp32"}
ROWS = headlines(60, seed=1)


class Workplace:
    """A base, a store behind the default connection, a cache, and what the children of the extractions told."""

    def __init__(self, folder: Path, setenv: Callable[[str, str], None], base: str) -> None:
        self.folder, self.base = folder, base
        self.told: list[dict[str, Any]] = []
        self.data: dict[str, Any] = {}
        self.ref: dict[str, Any] = {}
        root = (folder / "store").as_uri()
        connection = {"conn_type": "transfer_learning", "extra": {"root": root}}
        setenv("AIRFLOW_CONN_TRANSFER_LEARNING_DEFAULT", json.dumps(connection))
        setenv("AIRFLOW__TRANSFER_LEARNING__CACHE_FOLDER", str(folder / "cache"))
        self.store = Store.open(root)

    def pull(
        self, rows: list[dict[str, str]], name: str = "news", validation: float = 0.0, test: float = 0.2, **settings: Any
    ) -> dict[str, Any]:
        source = write_csv(self.folder / f"{name}.csv", rows)
        spec = {
            "name": name,
            "source": source,
            "task": ROLES,
            "split": {"validation": validation, "test": test, "small_classes": "exempt"},
            **settings,
        }
        return Task().run(PullDatasetOperator(task_id="pull", spec=spec))[0]

    def operator(self, dataset: dict[str, Any], **options: Any) -> FeatureExtractOperator:
        complete = {"task_id": "extract", "spec": EXACT, "dataset": dataset, "base": self.base}
        return FeatureExtractOperator(**complete | options)

    def extract(self, dataset: dict[str, Any], task: Task | None = None, **options: Any) -> dict[str, Any]:
        return (task or Task()).run(self.operator(dataset, **options))[0]

    def features(self, *refs: dict[str, Any]) -> dict[bytes, tuple[float, ...]]:
        """Return the features by input hash, as a training would get them."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for ref in refs:
            self.store.features.fetch(ref["digest"], destination=folder)
        tables = [pq.read_table(path, partitioning=None) for path in folder.iterdir()]
        return {key: tuple(row) for t in tables for key, row in zip(*(c.to_pylist() for c in t.columns), strict=True)}

    def keys(self, kind: str) -> list[str]:
        return [info.key for info in self.store.objects.list("features/cache/") if info.key.split("/")[-1].startswith(kind)]

    def computed(self) -> list[int]:
        return [metrics["computed"] for metrics in self.told]
