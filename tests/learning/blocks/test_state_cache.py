"""Frozen work is stored where that pays; training on it is training on the rows themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learning.stages.fine_tuning import Job, StoppingRun, weight_hashes
from transfer_learning.blocks import passport, state_cache
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.errors import Stopped
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import Run

TEXTS = ["the goal in a match", "a bank and its price", "an old film star"]
ONE_EPOCH: dict[str, Any] = {"strategy": "probe_then_fine_tune", "unfreeze_blocks": 1, "epochs": 1, "precision": "fp32"}
SETTINGS: dict[str, Any] = {"strategy": "probe_then_fine_tune", "unfreeze_blocks": 1, "epochs": 4, "backbone_lr": 2e-3}


def chosen(folder: Path, precision: str = "fp32", passes: int = 5, block: int = 3, **settings: Any) -> state_cache.Choice:
    spec = FineTuneSpec(**settings)
    return state_cache.choose(spec, block=block, passes=passes, elements=10**9, precision=precision, folder=folder)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with 100 GB free."""
    monkeypatch.setattr(state_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100 * 10**9}))


@pytest.mark.usefixtures("room")
def test_states_are_stored_in_full_where_they_fit(tmp_path: Path) -> None:
    assert chosen(tmp_path) == state_cache.Choice("float32", "4 GB for 5 passes over 3 frozen blocks, with room for 16 GB")


@pytest.mark.usefixtures("room")
def test_bf16_arithmetic_may_store_half(tmp_path: Path) -> None:
    assert chosen(tmp_path, "bf16", state_cache_gb=3).dtype == "bfloat16"
    assert chosen(tmp_path, "fp32", state_cache_gb=3).dtype is None


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"passes": 1}, "each row is run only once"),
        ({"block": 1}, "no layer is frozen"),
        ({"state_cache": "off"}, "switched off"),
        ({"state_cache_gb": 1}, "4 GB for 5 passes over 3 frozen blocks, with room for 1 GB"),
    ],
)
def test_the_log_says_why_not(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    assert chosen(tmp_path, **settings) == state_cache.Choice(None, reason)


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5 * 10**9}))

    assert chosen(tmp_path).dtype is None


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "gpt2"])
def test_training_on_stored_states_follows_the_plain_path(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, rows=40, validation=12, kind=kind)

    plain = job.run("plain", state_cache="off", precision="fp32", **SETTINGS)
    stored = job.run("stored", state_cache="on", precision="fp32", **SETTINGS)

    shown = [load_classifier(tmp_path / name / "model").probabilities(TEXTS) for name in ("plain", "stored")]
    assert stored["train_loss"] == pytest.approx(plain["train_loss"], rel=0.02)
    assert np.allclose(*shown, atol=0.02)


def test_frozen_blocks_run_once_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, rows=40)
    run, rows_run = state_cache.StateCache.fill, []

    def counted(self: Any, compute: Any, batches: Any, *others: Any) -> None:
        rows_run.extend(row for rows in batches for row in rows)
        run(self, compute, batches, *others)

    monkeypatch.setattr(state_cache.StateCache, "fill", counted)
    monkeypatch.setattr("transfer_learning.blocks.head.TextClassifier.features", None)  # the whole model must not run

    job.run(state_cache="on", **SETTINGS)

    assert sorted(rows_run) == list(range(40))


def test_a_resumed_run_stores_what_the_first_one_stored(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=40)
    whole = job.run("whole", state_cache="on", **SETTINGS)
    run = StoppingRun(threads=1, checkpoints=tmp_path / "checkpoints", after=25)
    with pytest.raises(Stopped):
        job.run("stopped", run, state_cache="on", **SETTINGS)
    newest = max((tmp_path / "checkpoints").glob("step-*"))

    again = Run(threads=1, resume_from=newest)
    metrics = job.run("stopped", again, **SETTINGS)

    assert metrics == whole
    assert again.numerics["state_cache"] == "float32"
    assert weight_hashes(tmp_path / "stopped") == weight_hashes(tmp_path / "whole")


def resumed_at_the_last_pass(folder: Path, **settings: Any) -> tuple[Job, Run]:
    """A training of one epoch that was stopped behind its head: each row goes through the frozen blocks once more only."""
    job = Job(folder, rows=40)
    run = StoppingRun(threads=1, checkpoints=folder / "checkpoints", after=15)
    with pytest.raises(Stopped):
        job.run("stopped", run, **ONE_EPOCH, **settings)
    newest = max((folder / "checkpoints").glob("step-*"))
    assert (run.numerics["state_cache"], (newest / "optimizer.safetensors").exists()) == ("float32", True)
    return job, Run(threads=1, resume_from=newest)


def test_a_run_that_resumes_at_its_last_pass_stores_what_the_first_one_stored(tmp_path: Path) -> None:
    job, again = resumed_at_the_last_pass(tmp_path)
    whole = job.run("whole", **ONE_EPOCH)

    assert job.run("stopped", again, **ONE_EPOCH) == whole
    assert again.numerics["state_cache"] == "float32"
    assert weight_hashes(tmp_path / "stopped") == weight_hashes(tmp_path / "whole")


def test_a_resume_that_has_no_room_for_the_states_is_marked(tmp_path: Path) -> None:
    job, again = resumed_at_the_last_pass(tmp_path)

    job.run("stopped", again, **ONE_EPOCH, state_cache_gb=1e-9)

    assert passport.read(tmp_path / "stopped" / "model")["notes"] == ["resumed with state_cache 'off' after 'float32'"]


def test_a_resume_that_has_no_room_for_the_states_is_refused_where_that_is_asked_for(tmp_path: Path) -> None:
    job, again = resumed_at_the_last_pass(tmp_path)

    with pytest.raises(Stopped, match=r"^ELSEWHERE the training would be resumed with state_cache 'off' after 'float32'"):
        job.run("stopped", again, **ONE_EPOCH, state_cache_gb=1e-9, resume_elsewhere="refuse")


def test_no_file_of_states_is_left(tmp_path: Path) -> None:
    job = Job(tmp_path)

    job.run(state_cache="on", **SETTINGS)

    assert {path.name for path in tmp_path.iterdir()} == {"base", "train", "out"}
