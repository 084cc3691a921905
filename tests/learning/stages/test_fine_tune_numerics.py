"""Golden vectors: when one of these moves, ``NUMERICS_VERSIONS["fine_tune"]`` must rise, or old fingerprints name other models."""

from pathlib import Path

import numpy as np
import pytest

from learning.stages.fine_tuning import Job
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.stage import NUMERICS_VERSIONS

VERSION = 7

GOLDEN = {
    "full": [0.3382, 0.3189, 0.3429],
    "linear_probe": [0.2457, 0.1790, 0.5753],
    "probe_then_fine_tune": [0.1186, 0.0163, 0.8651],
}
"""Probabilities of business, film and sport for one text after a short run in fp32; bf16 differs by more from one kind of
processor to the next."""


@pytest.mark.parametrize("strategy", GOLDEN)
def test_the_numbers_of_this_version_have_not_moved(tmp_path: Path, strategy: str) -> None:
    settings = {} if strategy == "linear_probe" else {"epochs": 10, "backbone_lr": 2e-3}
    Job(tmp_path).run(strategy=strategy, seed=1, precision="fp32", **settings)

    found = load_classifier(tmp_path / "out" / "model").probabilities(["the goal in a match"])[0]

    assert NUMERICS_VERSIONS["fine_tune"] == VERSION
    assert np.allclose(found, GOLDEN[strategy], atol=1e-3), found.tolist()
