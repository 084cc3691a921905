"""Put several evaluated versions side by side: accuracy against labelled rows, as a table, a picture and sentences.

Input: ``verdicts`` (folders of JSON files, one for each candidate: ``version``, ``facts`` of its manifest, and ``verdict``). Out:
``comparison.json``, ``table.md`` and ``curves.png``.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from transfer_learning.blocks.evaluation import learning_curves, plots
from transfer_learning.specs import CompareSpec
from transfer_learning.stage import Inputs, Run

FORMAT = 1
"""Of ``comparison.json``."""


def compare(spec: CompareSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Compare candidates that learned from draws of one dataset, and their baselines.

    Returns:
        Metrics: the number of ``candidates``, ``methods`` and ``test_rows``.

    Raises:
        BadInput: no verdict, or verdicts on different test rows.
    """
    files = sorted(path for folder in inputs["verdicts"] for path in folder.glob("*.json"))
    evaluated = [json.loads(path.read_bytes()) for path in files]
    cells = learning_curves.read_cells(evaluated)
    curves = learning_curves.points(cells, spec.confidence)
    sentences, table = learning_curves.sentences(curves), learning_curves.table(curves)
    title = f"{run.facts.get('model') or 'Candidates'}: accuracy on {cells[0].test_rows:,} test rows"
    plots.draw_curves(out / "curves.png", curves, title, spec.confidence)
    (out / "table.md").write_text("\n\n".join([f"# {title}", table, *sentences]) + "\n", encoding="utf-8")
    body = {
        "format": FORMAT,
        "model": run.facts.get("model"),
        "versions": [one["version"] for one in evaluated],
        "rows": [dataclasses.asdict(point) for point in curves],
        "cells": [dataclasses.asdict(cell) for cell in cells],
        "sentences": sentences,
        "spec": spec.to_dict(),
    }
    (out / "comparison.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    methods = {point.method for point in curves}
    return {"candidates": len(evaluated), "methods": len(methods), "test_rows": cells[0].test_rows}
