"""Features on disk are finite numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from transfer_learning.blocks.feature_parts import PartWriter
from transfer_learning.errors import BadInput

HASHES = np.array([b"a" * 32], dtype="S32")


@pytest.mark.parametrize(
    ("dtype", "value", "line"),
    [
        ("float16", 70_000.0, "NOT_FINITE features above 65,504 do not fit into float16 — set dtype='float32'"),
        ("float16", torch.inf, "NOT_FINITE the base model gives NaN or infinity — use another one, or precision='fp32'"),
        ("float32", torch.nan, "NOT_FINITE the base model gives NaN or infinity — use another one, or precision='fp32'"),
    ],
)
def test_features_that_are_no_numbers_are_refused_and_not_written(tmp_path: Path, dtype: str, value: float, line: str) -> None:
    writer = PartWriter(tmp_path, "fp32", dtype)

    with pytest.raises(BadInput) as caught:
        writer.add(HASHES, torch.tensor([[1.0, value]]))
    writer.close_part()

    assert str(caught.value) == line
    assert list(tmp_path.iterdir()) == []


def test_the_largest_number_of_float16_is_one(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, "fp32", "float16")

    writer.add(HASHES, torch.tensor([[1.0, 65_504.0]]))
    writer.close_part()

    assert len(writer.written) == 1
