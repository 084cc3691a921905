"""A training in a real Airflow survives whatever happens to its task; no end of it is taken for success.

Every test disturbs a run of its own. It is the same training in a store of its own, so that its weights must be those of the
run that nothing befell.
"""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from integration.live_airflow import EVENTS, LiveAirflow, Training, gone_after, is_alive, kill, wait_for

pytestmark = pytest.mark.live

RETRIED = ("up_for_retry", "failed")
"""How a first try may stand when another follows by itself: waiting for it, or failed once Airflow has moved it to its history."""


def published(training: Training) -> dict[str, Any]:
    """Return the manifest of the one version that a run has published."""
    (version,) = training.store.models.versions("news")
    return version


def weights(training: Training) -> str:
    return next(file["sha256"] for file in published(training)["files"] if file["path"] == "model.safetensors")


def succeeds(live: LiveAirflow, training: Training, state: str, gone: float, *, attempt: int = 2) -> int:
    """Wait for the try that succeeds and return the step it went on from."""
    task = training.until("success", "failed", attempt=attempt)
    step = training.resumed_at(task["try_number"])
    live.tell(training, state, f"try {task['try_number']} went on from step {step}: {task['state']}", gone)
    assert task["state"] == "success", training.log(task["try_number"])[-3000:]
    return step


def test_a_task_that_is_marked_failed_stays_failed_and_a_clear_goes_on(live: LiveAirflow) -> None:
    training = live.train("marked_failed")
    child = training.in_the_middle()
    parent, since = child.parent(), time.monotonic()

    training.mark_failed()

    gone = gone_after(child, since)
    wait_for(lambda: not is_alive(parent), 10, "the end of the task's process")
    time.sleep(2)  # whatever Airflow still makes of its end
    assert training.task()["state"] == "failed"
    assert training.store.models.names() == []
    training.clear()
    assert succeeds(live, training, "failed", gone) > 0


def test_a_task_that_is_cleared_while_it_runs_goes_on_from_a_checkpoint(live: LiveAirflow) -> None:
    training = live.train("cleared")
    child = training.in_the_middle()
    since = time.monotonic()

    training.clear()

    gone = gone_after(child, since)
    assert succeeds(live, training, training.first_end(), gone) > 0


def test_a_terminated_task_is_tried_again_and_never_a_success(live: LiveAirflow) -> None:
    training = live.train("terminated")
    child = training.in_the_middle()

    gone = gone_after(child, kill(child.parent(), signal.SIGTERM))

    state = training.first_end()
    assert state in RETRIED
    assert succeeds(live, training, state, gone) > 0
    assert "STOPPED" in training.log(1)


def test_after_a_kill_of_the_task_the_child_goes_too_and_a_retry_takes_the_lease_over(live: LiveAirflow) -> None:
    training = live.train("task_killed")
    child = training.in_the_middle()

    gone = gone_after(child, kill(child.parent(), signal.SIGKILL))

    state = training.first_end()
    assert state in RETRIED
    assert succeeds(live, training, state, gone) > 0
    assert "fell silent: taking over" in training.log(2)


def test_after_a_kill_of_the_child_the_retry_takes_half_the_micro_batch(live: LiveAirflow) -> None:
    training = live.train("child_killed")
    child = training.in_the_middle()

    gone = gone_after(child, kill(child, signal.SIGKILL))

    state = training.first_end()
    assert state in RETRIED
    assert succeeds(live, training, state, gone) > 0
    assert "KILLED stage fine_tune: SIGKILL from outside, most likely this machine's memory ran out" in training.log(1)
    assert "The next try starts with a micro-batch of 4 rows" in training.log(1)
    assert published(training)["facts"]["numerics"]["micro_batch"] == 4


@pytest.mark.parametrize("event", EVENTS)
def test_each_run_published_one_version_and_left_no_checkpoint(live: LiveAirflow, undisturbed: Training, event: str) -> None:
    store = live.store(event)

    left = [info.key for info in store.objects.list("checkpoints/")]

    assert [version["version"] for version in store.models.versions("news")] == [1]
    assert [key.rpartition("/")[2] for key in left] == ["lease.json"]


@pytest.mark.parametrize("event", ["marked_failed", "cleared", "terminated", "task_killed"])
def test_a_resumed_training_ends_with_the_weights_of_an_undisturbed_one(
    live: LiveAirflow, undisturbed: Training, event: str
) -> None:
    assert weights(live.trainings[event]) == weights(undisturbed)


def test_a_promotion_starts_the_dag_that_waits_for_the_model(live: LiveAirflow, undisturbed: Training) -> None:
    version = live.xcom("survive", undisturbed.run_id, "fine_tune")

    run_id = live.trigger("go_live", "undisturbed", version=version)

    wait_for(lambda: live.state("go_live", run_id) in ("success", "failed"), 120, "the promotion")
    assert live.state("go_live", run_id) == "success"
    (consumed,) = wait_for(lambda: live.runs("consume"), 30, "a run of the consumer")
    wait_for(lambda: live.state("consume", consumed) == "success", 60, "the consumer")
    assert live.xcom("consume", consumed, "tell") == 1
