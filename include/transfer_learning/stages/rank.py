"""Rank base models and their layers for a dataset, by a quick look at each.

Inputs: ``train`` (folders of Parquet parts) and ``base`` (one folder for each base model). Out: ``ranking.json``, with an entry
for each base in the order given: what ``measuring.measure`` told, its ``best_layer``, and its ``place``.

They are ranked by the highest LogME among their layers, embeddings left out. It compares features of different widths, does not
jump with the folds as an accuracy on a few hundred rows does, and You et al. (2021) found it to go with the accuracy after
fine-tuning. The probe's accuracy stands beside it, with its standard error.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transfer_learning.blocks import numerics
from transfer_learning.blocks.measuring import measure
from transfer_learning.blocks.model_folder import write_json
from transfer_learning.blocks.rows import read_rows, refuse_one_class
from transfer_learning.specs import RankSpec, TaskSpec
from transfer_learning.stage import Inputs, Run


def rank(spec: RankSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Measure each base model on the same sample of rows.

    Returns:
        Metrics: ``bases``, ``rows`` and ``seconds``.

    Raises:
        BadInput: rows of one class, or a base model that cannot be loaded.
        Stopped: the job was asked to stop.
    """
    started = time.monotonic()
    task = spec.task or TaskSpec()
    run.numerics |= numerics.choose(spec.precision, run)
    rows = read_rows(inputs["train"], task)
    refuse_one_class(rows, task)
    looks = []
    for number, folder in enumerate(inputs["base"], start=1):
        run.progress(phase=f"base {number} of {len(inputs['base'])}")
        looks.append(measure(folder, rows, spec.pooling, spec.seed, run, every_layer=True))
    order = sorted(range(len(looks)), key=lambda number: -looks[number].best.logme)
    entries = [
        look.to_dict() | {"best_layer": look.best.number, "place": 1 + order.index(number)} for number, look in enumerate(looks)
    ]
    write_json(out / "ranking.json", entries)
    return {"bases": len(looks), "rows": len(rows), "seconds": round(time.monotonic() - started, 3)}
