"""Promise 3: every row trains once per epoch, in an order that no resume changes."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from learning.stages.fine_tuning import Job, StoppingRun
from promises import sizes
from transfer_learning.blocks import train_loop
from transfer_learning.errors import Stopped

ROWS, EPOCHS = 30, 6
SETTINGS = {"batch_size": 4, "micro_batch": 2, "epochs": EPOCHS}
NEVER = 10**6

Steps = list[tuple[int, list[int]]]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Every optimizer step that is done, with its rows."""
    done: Steps = []
    optimizer_step = train_loop.optimizer_step

    def noted(phase: train_loop.Phase, state: train_loop.State, rows: list[int]) -> tuple[float, float]:
        result = optimizer_step(phase, state, rows)
        done.append((state.step, list(rows)))
        return result

    monkeypatch.setattr(train_loop, "optimizer_step", noted)
    return done


@pytest.mark.promise(3)
@pytest.mark.parametrize("points", sizes(5, 50))
def test_every_row_comes_once_per_epoch_wherever_the_run_is_resumed(
    tmp_path: Path, trained: Steps, points: int, held: Callable[[str], None]
) -> None:
    job = Job(tmp_path, rows=ROWS, validation=12)
    counting = StoppingRun(after=NEVER, threads=1)
    job.run("whole", counting, **SETTINGS)
    whole, polls = list(trained), NEVER - counting.left
    per_epoch = len(whole) // EPOCHS
    for epoch in range(EPOCHS):
        rows = [row for _, batch in whole[epoch * per_epoch : (epoch + 1) * per_epoch] for row in batch]
        assert sorted(rows) == list(range(ROWS))
    assert whole[:per_epoch] != [(step - per_epoch, batch) for step, batch in whole[per_epoch : 2 * per_epoch]]

    for after in random.Random(3).sample(range(polls), points):
        trained.clear()
        checkpoints = tmp_path / f"checkpoints-{after}"
        with pytest.raises(Stopped):
            job.run(f"stopped-{after}", StoppingRun(after=after, checkpoints=checkpoints, threads=1), **SETTINGS)
        before = len(trained)
        job.run(f"resumed-{after}", StoppingRun(after=NEVER, resume_from=max(checkpoints.iterdir()), threads=1), **SETTINGS)

        assert trained == whole, f"resumed after {before} steps"
    held(f"{points} resume points in {EPOCHS} epochs of {ROWS} rows: no repeat, no loss, the same order")
