"""A stopped and resumed job ends with the very same weights and metrics, wherever it was stopped."""

import json
import random
from pathlib import Path

import pytest

from learning.stages.fine_tuning import Job, StoppingRun, weight_hashes
from transfer_learning.blocks import checkpoint
from transfer_learning.blocks.checkpoint import Snapshot
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.stage import Run

STRATEGIES = {
    "full": {"epochs": 3},
    "full_with_early_stopping": {"epochs": 30, "backbone_lr": 2e-3, "patience": 2},
    "probe": {"strategy": "linear_probe"},
    "probe_by_gradient_steps": {"strategy": "linear_probe", "head_epochs": 3},
    "probe_then_fine_tune": {"strategy": "probe_then_fine_tune", "epochs": 3, "unfreeze_blocks": 1},
    "probe_by_steps_then_fine_tune": {
        "strategy": "probe_then_fine_tune",
        "head_epochs": 2,
        "epochs": 2,
        "pooling": "architecture",
    },
    "top_layers": {"strategy": "top_layers", "epochs": 3, "unfreeze_blocks": 2, "layer_decay": 0.5},
    "lora": {"strategy": "lora", "epochs": 3},
    "gradual_unfreeze": {
        "strategy": "gradual_unfreeze",
        "epochs": 2,
        "layer_decay": "discriminative",
        "schedule": "slanted_triangular",
    },
}


@pytest.mark.parametrize(("name", "kind"), [*((name, "bert") for name in STRATEGIES), ("gradual_unfreeze", "gpt2")])
def test_stopped_at_any_step_it_ends_bit_identical(tmp_path: Path, name: str, kind: str) -> None:
    job = Job(tmp_path, rows=24, validation=12, kind=kind, contrary=True)
    settings = {"batch_size": 8, "micro_batch": 4, **STRATEGIES[name]}
    whole = job.run("whole", **settings)

    fewest = 7 if name == "probe" else 12  # what a try may lose: the frozen blocks, or the choice of the penalty
    for every in (fewest, random.Random(name).randint(fewest + 1, 20)):
        stopped, stops = job.run_stopping(f"stopped-{every}", every, **settings)

        assert stops > 0 or every > fewest  # the probe is over in a few polls
        assert stopped == whole
        assert weight_hashes(tmp_path / f"stopped-{every}") == weight_hashes(tmp_path / "whole")


@pytest.mark.parametrize("strategy", ["linear_probe", "probe_then_fine_tune"])
@pytest.mark.parametrize("polls", range(2))
def test_asked_to_stop_at_the_first_polls_it_stops(tmp_path: Path, strategy: str, polls: int) -> None:
    with pytest.raises(Stopped):
        Job(tmp_path, rows=24).run("out", StoppingRun(threads=1, checkpoints=tmp_path / "kept", after=polls), strategy=strategy)


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=24, validation=12, contrary=True)

    metrics = job.run("stopped", epochs=30, patience=2, backbone_lr=2e-3)
    best = metrics["fine_tune_best_epoch"]
    shown = load_classifier(tmp_path / "stopped" / "model").probabilities(["the goal"])
    job.run("all", epochs=30, early_stopping=False, backbone_lr=2e-3)
    last = load_classifier(tmp_path / "all" / "model").probabilities(["the goal"])

    assert metrics["fine_tune_epochs"] == best + 2 < 30
    assert shown.max() < last.max()


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = Job(tmp_path, rows=24)
    settings = {"batch_size": 8, "epochs": 3}
    whole = job.run("whole", **settings)
    checkpoints = tmp_path / "checkpoints"
    for stop in (4, 7):
        _stop_once(job, checkpoints, stop, settings)
    newest = max(checkpoints.glob("step-*"))
    (newest / "weights.safetensors").write_bytes(b"torn")

    resumed = _resume(job, newest, settings)

    assert "CHECKPOINT SKIPPED" in caplog.text
    assert resumed == whole
    assert weight_hashes(tmp_path / "resumed") == weight_hashes(tmp_path / "whole")


def test_a_checkpoint_of_another_job_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=24)
    _stop_once(job, tmp_path / "checkpoints", 4, {"batch_size": 8, "epochs": 3})

    with pytest.raises(BadInput, match="WRONG_CHECKPOINT"):
        _resume(job, max((tmp_path / "checkpoints").glob("step-*")), {"batch_size": 8, "epochs": 3, "seed": 1})


def test_a_machine_with_more_threads_resumes_with_those_of_the_first_and_ends_bit_identical(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=24)
    settings = {"batch_size": 8, "epochs": 3}
    whole = job.run("whole", **settings)
    _stop_once(job, tmp_path / "checkpoints", 4, settings)

    resumed = job.run("resumed", Run(resume_from=newest(tmp_path / "checkpoints"), threads=2), **settings)

    passport = json.loads((tmp_path / "resumed" / "model" / "passport.json").read_text())
    assert (passport["numerics"]["threads"], passport["notes"]) == (1, [])
    assert resumed == whole
    assert weight_hashes(tmp_path / "resumed") == weight_hashes(tmp_path / "whole")


def test_a_resume_on_another_machine_stays_marked_however_often_it_is_resumed_again(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=24)
    settings = {"batch_size": 8, "epochs": 4, "checkpoint_seconds": 1e-6}
    _stop_once(job, tmp_path / "first", 4, settings)
    _made_on(newest(tmp_path / "first"), instructions="VSX", torch="2.0.0")
    again = StoppingRun(after=4, checkpoints=tmp_path / "second", resume_from=newest(tmp_path / "first"), threads=1)
    with pytest.raises(Stopped):
        job.run("stopped", again, **settings)

    _resume(job, newest(tmp_path / "second"), settings)

    passport = json.loads((tmp_path / "resumed" / "model" / "passport.json").read_text())
    here = passport["numerics"]
    assert passport["notes"] == [
        f"resumed with instructions {here['instructions']!r} after 'VSX'",
        f"resumed with torch {here['torch']!r} after '2.0.0'",
    ]
    assert f"- Note: {passport['notes'][0]}." in (tmp_path / "resumed" / "model" / "README.md").read_text()


def test_where_asked_a_resume_on_another_machine_is_refused_and_can_be_retried(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=24)
    settings = {"batch_size": 8, "epochs": 3, "resume_elsewhere": "refuse"}
    _stop_once(job, tmp_path / "checkpoints", 4, settings)
    kept = newest(tmp_path / "checkpoints")
    here = _made_on(kept, instructions="VSX")

    with pytest.raises(Stopped, match=r"^ELSEWHERE the training would be resumed with instructions '\w+' after 'VSX' — retry on"):
        _resume(job, kept, settings)
    _made_on(kept, instructions=here)
    resumed = _resume(job, kept, settings)

    assert Stopped.retryable
    assert resumed == job.run("whole", **settings)


def newest(checkpoints: Path) -> Path:
    return max(checkpoints.glob("step-*"))


def _made_on(folder: Path, **machine: str) -> str:
    """Let a checkpoint say that it was made on another machine; return which instructions it named before."""
    made = checkpoint.read(folder)
    facts = {**made.facts, "numerics": made.facts["numerics"] | machine}
    checkpoint.write(folder.parent, facts["tick"], Snapshot(made.files, facts))
    return str(made.facts["numerics"]["instructions"])


def _stop_once(job: Job, checkpoints: Path, after: int, settings: dict[str, object]) -> None:
    run = StoppingRun(after=after, checkpoints=checkpoints, threads=1)
    with pytest.raises(Stopped):
        job.run("stopped", run, **settings)


def _resume(job: Job, kept: Path, settings: dict[str, object]) -> dict[str, object]:
    return job.run("resumed", Run(resume_from=kept, threads=1), **settings)
