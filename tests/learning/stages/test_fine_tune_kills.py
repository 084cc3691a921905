"""Promises 1 and 2: kill -9 at any moment, resume from the store, and the model is the same to the bit."""

import contextlib
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from learning.stages.fine_tuning import TIMES, Job, weight_hashes
from learning.stages.pretraining import TIMES as PRETRAINING_TIMES
from promises import sizes
from transfer_learning.attempts import Attempt
from transfer_learning.errors import HostOutOfMemory
from transfer_learning.jobs import JobResult, run_job
from transfer_learning.settings import Settings
from transfer_learning.specs import FineTuneSpec, TaskSpec
from transfer_learning.store.object_store import MemoryObjectStore

LONG = {"batch_size": 4, "micro_batch": 2, "checkpoint_seconds": 0.15, "precision": "fp32", "task": TaskSpec()}
SPECS = {
    "full": FineTuneSpec(**LONG, epochs=60),
    "early stopping": FineTuneSpec(**LONG, epochs=200, backbone_lr=1e-3, patience=40),
    "probe then fine-tune": FineTuneSpec(**LONG, strategy="probe_then_fine_tune", head_epochs=60, epochs=120, unfreeze_blocks=1),
    "bf16": FineTuneSpec(**LONG | {"precision": "bf16"}, epochs=25),
}
SIGNS = ("checkpoints/step-*", "progress.jsonl")
"""What a child has written before it is killed: so that some progress is sure, and no moment is safe."""


class Killer:
    """Watches a job and kills its child at a random moment after something has appeared in its folder."""

    def __init__(self, watch, work: Path, sign: str, chance: random.Random, armed: bool) -> None:
        self._watch, self._work, self._sign, self._chance, self._armed = watch, work, sign, chance, armed
        self._moment: float | None = None

    def __call__(self) -> None:
        self._watch()
        if self._moment is None and any(self._work.glob(self._sign)):
            self._moment = time.monotonic() + self._chance.uniform(0, 0.6)
        if self._armed and self._moment is not None and time.monotonic() >= self._moment:
            self._armed = False
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):  # it may be over
                    if "transfer_learning.run" in child.cmdline():
                        child.kill()


def run(
    job: Job, spec: Settings, folder: Path, kills: int, seed: int, signs: tuple[str, ...] = SIGNS, stage: str = "fine_tune"
) -> tuple[JobResult, list[str | None]]:
    """Run a job whose child is killed again and again; return the result, and where each attempt began."""
    objects, chance, begun = MemoryObjectStore(), random.Random(seed), []
    for number in range(kills + 1):
        work = folder / f"attempt-{number}"
        with Attempt(objects, "f00d", owner=str(number)) as attempt:
            start = attempt.newest_checkpoint(work)
            begun.append(start.name if start else None)
            watch = Killer(attempt.watcher(work), work, signs[number % len(signs)], chance, armed=number < kills)
            try:
                return run_job(stage, spec, job.inputs, work=work, resume_from=start, threads=1, watch=watch), begun
            except HostOutOfMemory:
                continue
    raise AssertionError("the last attempt is not killed")


End = tuple[dict[str, str], dict[str, Any]]
"""Hashes of the weights, and the metrics but for times."""


def survive(job: Job, spec: Settings, folder: Path, kills: int, stage: str = "fine_tune") -> tuple[End, list[End], int]:
    """Kill runs of a job until there were so many kills, each from a later checkpoint on.

    Returns:
        How a run ends that is left alone, how the killed ones ended, and the number of kills.
    """
    whole, _ = run(job, spec, folder / "whole", 0, seed=0, stage=stage)
    done, ends = 0, []
    while done < kills:
        number = len(ends) + 1
        killed, begun = run(job, spec, folder / f"killed-{number}", kills - done, seed=number, stage=stage)
        assert begun[0] is None
        assert sorted(begun[1:], key=lambda step: step or "") == begun[1:]
        assert len(begun) > 1
        assert begun[-1] is not None
        done += len(begun) - 1
        ends.append(end_of(killed))
    return end_of(whole), ends, done


def end_of(result: JobResult) -> End:
    return weight_hashes(result.out), timeless(result.metrics)


@pytest.mark.promise(1)
@pytest.mark.parametrize("kills", sizes(1, 50))
@pytest.mark.parametrize("name", SPECS)
def test_killed_at_random_moments_it_ends_bit_identical(
    tmp_path: Path, name: str, kills: int, held: Callable[[str], None]
) -> None:
    job = Job(tmp_path, rows=30, validation=12, contrary=name == "early stopping")

    whole, killed, done = survive(job, SPECS[name], tmp_path, kills)

    assert killed == [whole] * len(killed)
    held(f"{name}: {done} kills in {len(killed)} runs, all equal")


@pytest.mark.promise(2)
@pytest.mark.parametrize("kills", sizes(2, 25))
def test_one_run_gets_on_after_each_of_many_kills(tmp_path: Path, kills: int, held: Callable[[str], None]) -> None:
    spec = FineTuneSpec(**LONG, epochs=45 * kills, early_stopping=False)
    job = Job(tmp_path, rows=30, validation=12)
    whole, _ = run(job, spec, tmp_path / "whole", 0, seed=0)

    killed, begun = run(job, spec, tmp_path / "killed", kills, seed=1, signs=SIGNS[:1])

    steps = [int(step.removeprefix("step-")) for step in begun if step]
    assert len(steps) == kills
    assert all(earlier < later for earlier, later in itertools.pairwise(steps))
    assert end_of(killed) == end_of(whole)
    held(f"{kills} kills of one run: same hashes, progress after each")


def timeless(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if name not in {*TIMES, *PRETRAINING_TIMES}}
