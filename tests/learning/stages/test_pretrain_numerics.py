"""Golden vectors: when one of these moves, ``NUMERICS_VERSIONS["pretrain"]`` must rise, or old fingerprints name other models."""

from pathlib import Path

import pytest

from learning.stages.pretraining import SCRATCH, Job
from transfer_learning.stage import NUMERICS_VERSIONS

VERSION = 4

RUNS = {
    "continued": ("bert", {}),
    "scratch": (None, {**SCRATCH, "architecture": "electra", "vocab_size": 60}),
    "causal": (None, {**SCRATCH, "architecture": "gpt2", "objective": "causal_lm"}),
    "supervised": (None, {**SCRATCH, "architecture": "bert", "vocab_size": 60, "objective": "supervised", "learning_rate": 3e-3}),
}
GOLDEN = {"continued": 3.2723, "scratch": 3.7545, "causal": 5.1316, "supervised": 0.7579}
"""Validation loss after a short run in fp32."""


@pytest.mark.parametrize("name", GOLDEN)
def test_the_numbers_of_this_version_have_not_moved(tmp_path: Path, name: str) -> None:
    kind, settings = RUNS[name]
    job = Job(tmp_path, validation=20, kind=kind)

    found = job.run(**{"epochs": 4, "max_length": 32, "batch_size": 4, "precision": "fp32", "seed": 1, **settings})

    assert NUMERICS_VERSIONS["pretrain"] == VERSION
    assert found["validation_loss"] == pytest.approx(GOLDEN[name], abs=1e-3)
