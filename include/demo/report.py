"""The demo's figures, read back from the store and from Airflow, as a table, two sentences and summary.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from demo.airflow_api import AirflowApi
from demo.story import DAG
from transfer_learning.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What one run of the DAG left behind."""

    run_id: str
    rows: int
    """Labelled rows that the version was trained or selected on."""
    version: int
    accuracy: float
    """On the golden test set."""
    baseline_accuracy: float
    """TF-IDF + logistic regression, trained on the same rows and tested on the same rows."""
    macro_f1: float
    verdict: str
    promoted: bool
    """Whether the version became champion."""
    seconds: float
    """Of the whole run, as Airflow measured it."""
    bytes_uploaded: int
    """To publish the version."""


def read_run(api: AirflowApi, store: Store, model: str, run_id: str) -> RunFigures:
    """Collect the figures of one finished run.

    Raises:
        RuntimeError: the run published no version, or left no verdict.
    """
    run = api.run(DAG, run_id)
    manifest = next((entry for entry in store.models.versions(model) if entry["facts"]["run"] == run_id), None)
    if manifest is None:
        raise RuntimeError(f"run {run_id} published no version of {model}")
    version = int(manifest["version"])
    verdicts = store.evaluations.read(model, version)
    if not verdicts:
        raise RuntimeError(f"version {version} of {model} has no verdict")
    metrics = verdicts[-1]["metrics"]
    dataset = manifest["facts"]["dataset"]
    champions = {alias.version for alias in (*store.aliases.history(model), store.aliases.read(model)) if alias}
    labels = store.datasets.manifest(dataset["name"], dataset["digest"])["labels"]
    return RunFigures(
        run_id=run_id,
        rows=sum(sum(labels.get(split, {}).values()) for split in ("train", "validation")),
        version=version,
        accuracy=metrics["candidate"]["accuracy"],
        baseline_accuracy=metrics["baselines"]["tfidf"]["accuracy"],
        macro_f1=metrics["candidate"]["macro_f1"],
        verdict=verdicts[-1]["decision"],
        promoted=version in champions,
        seconds=round((_time(run["end_date"]) - _time(run["start_date"])).total_seconds(), 1),
        bytes_uploaded=int(manifest["bytes_uploaded"]),
    )


def summary(root: str, model: str, champion: int | None, runs: Sequence[RunFigures]) -> dict[str, Any]:
    """Return the content of summary.json."""
    return {"store": root, "model": model, "champion": champion, "runs": [dataclasses.asdict(run) for run in runs]}


def write_summary(path: Path, body: dict[str, Any]) -> None:
    """Write summary.json."""
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def table(runs: Sequence[RunFigures]) -> str:
    """Return the runs as an aligned table."""
    head = ["run", "labelled", "version", "accuracy", "TF-IDF", "macro F1", "verdict", "promoted", "seconds", "MB uploaded"]
    lines = [head]
    for number, run in enumerate(runs, start=1):
        scores = [f"{score:.3f}" for score in (run.accuracy, run.baseline_accuracy, run.macro_f1)]
        outcome = [run.verdict, "yes" if run.promoted else "no", f"{run.seconds:.0f}", f"{run.bytes_uploaded / 1e6:.1f}"]
        lines.append([f"day {number}", str(run.rows), str(run.version), *scores, *outcome])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def fetch_comparisons(store: Store, folder: Path) -> tuple[str, list[Path]]:
    """Write the tables and pictures of all comparisons into a folder; return the tables, and where the pictures are."""
    tables, pictures = [], []
    for info in store.objects.list("models/"):
        _, _, kind, *rest = info.key.split("/")
        if kind == "comparisons":
            digest, name = rest
            path = folder / digest[:12] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.objects.get(info.key).data)
            tables += [path.read_text(encoding="utf-8")] if path.suffix == ".md" else []
            pictures += [path] if path.suffix == ".png" else []
    return "\n".join(tables), pictures


def in_words(runs: Sequence[RunFigures], champion: int | None) -> str:
    """Return what the figures show, in two sentences."""
    first, last = runs[0], runs[-1]
    gain = last.accuracy - first.accuracy
    return (
        f"With {first.rows} labelled rows the fine-tuned model is right on {first.accuracy:.1%} of the golden test set, "
        f"TF-IDF + logistic regression on {first.baseline_accuracy:.1%}. "
        f"{last.rows - first.rows} labels later it is {last.accuracy:.1%} against {last.baseline_accuracy:.1%} "
        f"({gain * 100:+.1f} points), and version {champion} is the champion."
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
