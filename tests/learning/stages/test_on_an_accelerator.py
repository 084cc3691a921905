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

Ending = tuple[dict[str, Any], dict[str, str]]
"""Metrics, and the hashes of the weights."""


def whole(job: fine_tuning.Job, **settings: Any) -> Ending:
    """Run a job undisturbed, and make sure that it was on the accelerator."""
    run = Run(threads=1)
    metrics = job.run("whole", run, **settings)
    assert run.numerics["device"] == "cuda"
    return metrics, weight_hashes(job.folder / "whole")


def resumed(job: fine_tuning.Job, every: int, **settings: Any) -> Ending:
    """Run a job that is stopped at every so many polls, and resumed."""
    metrics, stops = job.run_stopping("stopped", every, **settings)
    assert stops > 0
    return metrics, weight_hashes(job.folder / "stopped")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "probe"])  # which is over in a few polls
def test_a_fine_tuning_resumed_there_ends_bit_identical(tmp_path: Path, name: str, precision: str) -> None:
    job = fine_tuning.Job(tmp_path, rows=24, validation=12, contrary=True)
    settings = {"batch_size": 8, "micro_batch": 4, "precision": precision, **STRATEGIES[name]}

    assert resumed(job, 12, **settings) == whole(job, **settings)

    answers = load_classifier(tmp_path / "whole" / "model").probabilities(["the goal", "the market", ""])
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, (kind, _) in STARTS.items() if kind])
def test_a_pretraining_resumed_there_ends_bit_identical(tmp_path: Path, name: str) -> None:
    kind, settings = STARTS[name]
    job, settings = pretraining.Job(tmp_path, documents=40, validation=12, kind=kind), {**SETTINGS, **settings}

    assert resumed(job, 6, **settings) == whole(job, **settings)


def test_many_rows_of_many_lengths_train_there_without_running_out_of_memory(tmp_path: Path) -> None:
    job = fine_tuning.Job(tmp_path, rows=600, validation=60)

    assert whole(job, epochs=2)[0]["train_loss"] < 2
