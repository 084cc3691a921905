"""What is set up for a run that can be repeated."""

import json
from pathlib import Path

import pytest
import torch

from transfer_learning.blocks import numerics
from transfer_learning.stage import Run


def test_arithmetic_is_repeatable_and_writes_no_tensor_twice_for_it() -> None:
    torch.utils.deterministic.fill_uninitialized_memory = True

    numerics.choose("fp32", Run())

    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize(("driver", "visible", "lines"), [(True, None, 1), (True, "-1", 0), (False, None, 0)])
def test_a_gpu_that_torch_cannot_use_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: bool, visible: str | None, lines: int
) -> None:
    (tmp_path / "nvidiactl").write_text("")
    monkeypatch.setattr(numerics, "DRIVER", tmp_path / ("nvidiactl" if driver else "none"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = tmp_path / "progress.jsonl"

    assert numerics.choose("fp32", Run(progress_file=told))["device"] == "cpu"

    said = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    assert [line["reason"] for line in said] == [f"there is a GPU, and torch {torch.__version__} cannot use it"] * lines
