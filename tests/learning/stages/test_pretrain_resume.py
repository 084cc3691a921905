"""A stopped or killed and resumed pretraining ends with the very same weights and metrics, wherever it was stopped."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from learning.stages.fine_tuning import StoppingRun, weight_hashes
from learning.stages.pretraining import SCRATCH, Job
from learning.stages.test_fine_tune_kills import survive
from learning.tiny_model import make_rows, write_rows
from promises import sizes
from transfer_learning.blocks import checkpoint
from transfer_learning.blocks.language.objectives import LanguageExamples
from transfer_learning.blocks.train_loop import Examples
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.specs import PretrainSpec, TaskSpec
from transfer_learning.stage import Run

SETTINGS = {"batch_size": 4, "micro_batch": 2, "max_length": 32, "epochs": 3}
STARTS = {
    "after_a_warm_up": ("bert", {"head_epochs": 2}),
    "scratch": (None, {**SCRATCH, "architecture": "albert", "vocab_size": 60}),
    "pairs": (None, {**SCRATCH, "architecture": "albert", "vocab_size": 60, "sentences": "sentence_order"}),
    "replaced": ("electra", {"objective": "replaced_token", "head_epochs": 1}),
    "causal": (None, {**SCRATCH, "architecture": "gpt2", "objective": "causal_lm"}),
    "supervised": ("bert", {"objective": "supervised"}),
    "supervised_scratch": (None, {**SCRATCH, "architecture": "albert", "vocab_size": 60, "objective": "supervised"}),
}


@pytest.mark.parametrize("name", STARTS)
def test_stopped_at_any_step_it_ends_bit_identical(tmp_path: Path, name: str) -> None:
    kind, settings = STARTS[name]
    job = Job(tmp_path, documents=40, validation=12, kind=kind)
    if "sentences" in settings:
        job.inputs["train"] = [
            write_rows(tmp_path / "sentences", [(f"{text}. {text}. {text}.", topic) for text, topic in make_rows(40)])
        ]
        job.inputs["validation"] = job.inputs["train"]
    settings = {**SETTINGS, **settings}
    whole = job.run("whole", **settings)

    fewest = 48 if kind is None else 6  # a tokenizer polls at each document, and starts over after a stop
    for every in (fewest, random.Random(name).randint(fewest + 1, fewest + 12)):
        stopped, stops = job.run_stopping(f"stopped-{every}", every, **settings)

        assert stops > 0
        assert stopped == whole
        assert weight_hashes(tmp_path / f"stopped-{every}") == weight_hashes(tmp_path / "whole")


@pytest.mark.promise(1)
@pytest.mark.parametrize("kills", sizes(1, 25))
@pytest.mark.parametrize("name", ["after_a_warm_up", "causal", "supervised"])
def test_killed_at_random_moments_it_ends_bit_identical(
    tmp_path: Path, name: str, kills: int, held: Callable[[str], None]
) -> None:
    kind, settings = STARTS[name]
    job = Job(tmp_path, documents=40, validation=12, kind=kind)
    long = {**SETTINGS, **settings, "epochs": 40, "checkpoint_seconds": 0.15, "precision": "fp32", "task": TaskSpec()}

    whole, killed, done = survive(job, PretrainSpec(**long), tmp_path, kills, "pretrain")

    assert killed == [whole] * len(killed)
    held(f"pretraining, {name.replace('_', ' ')}: {done} kills in {len(killed)} runs, all equal")


def test_a_checkpoint_of_the_warm_up_holds_the_head_alone(tmp_path: Path) -> None:
    job = Job(tmp_path)
    settings = {**SETTINGS, "head_epochs": 4, "checkpoint_seconds": 1e-6}
    run = StoppingRun(threads=1, checkpoints=tmp_path / "checkpoints", after=12)

    with pytest.raises(Stopped):
        job.run("stopped", run, **settings)

    found = checkpoint.read(max((tmp_path / "checkpoints").glob("step-*")))
    assert found.facts["phase"] == "head"
    assert found.facts["state"]["step"] > 1
    assert found.files["weights"]
    assert all(name.startswith("cls.") for name in found.files["weights"])


@pytest.mark.parametrize("objective", ["masked_lm", "supervised"])
def test_a_resumed_job_takes_the_tokenizer_of_its_checkpoint(tmp_path: Path, objective: str) -> None:
    job = Job(tmp_path, kind=None)
    settings = {**SETTINGS, **SCRATCH, "architecture": "bert", "vocab_size": 60, "objective": objective}
    stopping = StoppingRun(threads=1, checkpoints=tmp_path / "checkpoints", after=132)
    with pytest.raises(Stopped):
        job.run("stopped", stopping, **settings)
    kept = max((tmp_path / "checkpoints").glob("step-*"))
    words = json.loads(checkpoint.read(kept).facts["tokenizer"])["model"]["vocab"]

    job.run("resumed", Run(threads=1, resume_from=kept), **settings)

    published = json.loads((tmp_path / "resumed" / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    assert published == words


def test_a_checkpoint_of_another_job_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path)
    with pytest.raises(Stopped):
        job.run("stopped", StoppingRun(threads=1, checkpoints=tmp_path / "checkpoints", after=8), **SETTINGS)
    kept = max((tmp_path / "checkpoints").glob("step-*"))

    with pytest.raises(BadInput, match="^WRONG_CHECKPOINT"):
        job.run("resumed", Run(threads=1, resume_from=kept), **SETTINGS, seed=1)


@pytest.mark.parametrize(("objective", "examples"), [("masked_lm", LanguageExamples), ("supervised", Examples)])
def test_memory_for_half_a_micro_batch_gives_the_same_effective_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, examples: type
) -> None:
    job = Job(tmp_path)
    settings = {**SETTINGS, "micro_batch": 4, "precision": "fp32", "objective": objective}
    whole = job.run("whole", **settings)
    losses = examples.losses

    def short(self: Any, rows: list[int]) -> tuple[torch.Tensor, ...]:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("no more")
        return losses(self, rows)

    monkeypatch.setattr(examples, "losses", short)
    run = Run(threads=1)
    halved = job.run("halved", run, **settings)

    assert run.numerics["micro_batch"] == 2
    assert halved["steps"] == whole["steps"]
    assert halved["train_loss"] == pytest.approx(whole["train_loss"], rel=0.05)
