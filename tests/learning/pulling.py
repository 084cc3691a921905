"""A pull as the operator runs it, without Airflow: sources staged, stage run, snapshot published to a store in memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transfer_learning.errors import BadInput
from transfer_learning.sources import stage_sources
from transfer_learning.specs import PullSpec
from transfer_learning.stage import Run
from transfer_learning.stages.pull_dataset import pull_dataset
from transfer_learning.store.datasets import DatasetStore
from transfer_learning.store.object_store import MemoryObjectStore

TOPICS = ("sport", "tech", "world")
AS_OF = "2026-03-01T00:00:00+00:00"


def write_csv(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("id", "text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def make_spec(source: Path | str | None, **settings: Any) -> PullSpec:
    """Return a pull of columns id, text and label that keeps quiet about classes too small for a test split."""
    split = {"small_classes": "exempt"} | settings.pop("split", {})
    return PullSpec.from_dict(
        {"name": "news", "source": None if source is None else str(source), "task": {"id": "id"}, "split": split} | settings
    )


class Puller:
    """Pulls one dataset day after day, as the operator does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = DatasetStore(MemoryObjectStore())
        self.metrics: Mapping[str, Any] = {}
        self.out = folder
        self.uploaded = 0
        self._runs = 0

    def pull(self, spec: PullSpec, *, as_of: str = AS_OF, window=None, reset: bool = False, **sources: Any) -> dict[str, Any]:
        """Return the manifest that stands after a pull."""
        self._runs += 1
        work = self.folder / f"run-{self._runs}"
        self.out = work / "out"
        self.out.mkdir(parents=True)
        stage_sources(spec, work / "source", window=window, log=lambda line: None, **sources)
        inputs = {"source": [work / "source"]}
        if (latest := self.store.latest(spec.name)) is not None:
            inputs["previous"] = [self.store.fetch(spec.name, latest["digest"], destination=work / "previous")]
        facts = {"as_of": as_of, "window": window, "rule": self.store.rule(spec.name), "reset": reset}
        self.metrics = pull_dataset(spec, inputs, self.out, Run(facts=facts))
        manifest = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))
        if reset:
            self.store.reset_rule(spec.name, manifest["rule"], reason="test", actor="test")
        else:
            self.store.fix_rule(spec.name, manifest["rule"])
        published, self.uploaded = self.store.publish(spec.name, self.out)
        return published

    def rows(self, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return every row of a published snapshot with its ``split`` and ``labelled``."""
        folder = self.store.fetch(
            manifest["name"], manifest["digest"], destination=self.folder / f"rows-{len(list(self.folder.iterdir()))}"
        )
        rows = []
        for part in manifest["parts"]:
            path = folder / (part["split"] if part["labelled"] else f"unlabelled-{part['split']}") / f"{part['sha256']}.parquet"
            table: pa.Table = pq.read_table(path, partitioning=None)
            assert table.num_rows == part["rows"]
            assert path.stat().st_size == part["bytes"]
            rows += [row | {"split": part["split"], "labelled": part["labelled"]} for row in table.to_pylist()]
        return rows

    def splits(self, manifest: Mapping[str, Any], key: str = "id") -> dict[Any, str]:
        """Return the split of each row by a column."""
        return {row[key]: row["split"] for row in self.rows(manifest)}


def headlines(count: int, start: int = 0) -> list[tuple[str, str, str]]:
    return [(str(i), f"Headline number {i} of the day", TOPICS[i % 3]) for i in range(start, start + count)]


def refusal(puller: Puller, spec: PullSpec, **options) -> str:
    """Return the one line, after seeing that nothing was written."""
    with pytest.raises(BadInput) as caught:
        puller.pull(spec, **options)
    assert list(puller.out.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)
