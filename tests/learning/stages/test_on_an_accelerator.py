"""The stages on an accelerator: what is stopped and resumed there ends bit-identical, and what is published works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learning.stages import fine_tuning, pretraining
from learning.stages.fine_tuning import weight_hashes
from learning.stages.test_fine_tune_resume import STRATEGIES
from learning.stages.test_pretrain_resume import SETTINGS, STARTS
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.stage import Run

pytestmark = pytest.mark.gpu


def resumed_as_whole(job: fine_tuning.Job, every: int, **settings: Any) -> dict[str, Any]:
    run = Run(threads=1)
    whole = job.run("whole", run, **settings)

    stopped, stops = job.run_stopping("stopped", every, **settings)

    assert run.numerics["device"] == "cuda"
    assert stops > 0
    assert stopped == whole
    assert weight_hashes(job.folder / "stopped") == weight_hashes(job.folder / "whole")
    return whole


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", set(STRATEGIES) - {"probe"})
def test_a_fine_tuning_resumed_there_ends_bit_identical(tmp_path: Path, name: str, precision: str) -> None:
    job = fine_tuning.Job(tmp_path, rows=24, validation=12, contrary=True)

    resumed_as_whole(job, 12, **{"batch_size": 8, "micro_batch": 4, "precision": precision, **STRATEGIES[name]})

    answers = load_classifier(tmp_path / "whole" / "model").probabilities(["the goal", "the market", ""])
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, (kind, _) in STARTS.items() if kind])
def test_a_pretraining_resumed_there_ends_bit_identical(tmp_path: Path, name: str) -> None:
    kind, settings = STARTS[name]

    resumed_as_whole(pretraining.Job(tmp_path, documents=40, validation=12, kind=kind), 6, **{**SETTINGS, **settings})


def test_many_rows_of_many_lengths_train_there_without_running_out_of_memory(tmp_path: Path) -> None:
    job = fine_tuning.Job(tmp_path, rows=600, validation=60)

    metrics = job.run("out", epochs=2)

    assert metrics["train_loss"] < 2
