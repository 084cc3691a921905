"""Promise 5: a training that gets SIGTERM at any moment ends as a retryable failure, and its child is gone."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from learning.stages.fine_tuning import Job
from promises import sizes
from transfer_learning.attempts import Attempt
from transfer_learning.errors import Stopped
from transfer_learning.jobs import StopFlag, run_job
from transfer_learning.specs import FineTuneSpec, TaskSpec
from transfer_learning.store.object_store import MemoryObjectStore

SPEC = FineTuneSpec(task=TaskSpec(), batch_size=4, micro_batch=2, epochs=100_000, checkpoint_seconds=3600, precision="fp32")
"""It never ends by itself, and writes no checkpoint unless it is stopped."""


@pytest.fixture
def stop() -> Iterator[StopFlag]:
    """A flag that SIGTERM sets, as a task's signal handler does."""
    flag = StopFlag()
    before = signal.signal(signal.SIGTERM, lambda *_: flag.set())
    yield flag
    signal.signal(signal.SIGTERM, before)


def terminate(after: Path, seconds: float) -> None:
    """Send this process SIGTERM so long after a file has appeared."""

    def send() -> None:
        while not after.exists():
            time.sleep(0.01)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()


def stopped(job: Job, work: Path, stop: StopFlag, sign: str, seconds: float) -> bool:
    """Run a training until SIGTERM ends it; return whether a checkpoint of it is in the store."""
    objects = MemoryObjectStore()
    with pytest.raises(Stopped, match="^STOPPED") as caught, Attempt(objects, "f00d", owner="first", stop=stop) as attempt:
        watch = attempt.watcher(work)
        terminate(work / sign, seconds)
        run_job("fine_tune", SPEC, job.inputs, work=work, threads=1, watch=watch, stop=stop)

    assert caught.value.retryable
    assert not [child for child in psutil.Process().children(recursive=True) if str(work) in " ".join(child.cmdline())]
    assert not any((work / "out").iterdir())
    with Attempt(objects, "f00d", owner="second") as retry:
        return retry.newest_checkpoint(work / "retry") is not None


@pytest.mark.promise(5)
@pytest.mark.parametrize("count", sizes(2, 50))
def test_sigterm_at_any_moment_is_a_retryable_failure(
    tmp_path: Path, stop: StopFlag, count: int, held: Callable[[str], None]
) -> None:
    job, chance, kept = Job(tmp_path), random.Random(5), 0
    for number in range(count):
        stop.is_set = False
        sign = ("job.json", "progress.jsonl", "progress.jsonl")[number % 3]  # while the child starts, or while it trains

        kept += stopped(job, tmp_path / str(number), stop, sign, chance.uniform(0, 1))

    assert kept > 0
    held(f"{count} of {count} retryable with the child gone, {kept} with a checkpoint")
