"""A job's figures in the log and in the task's state."""

import logging

from airflow_transfer_learning.operators import progress
from airflow_transfer_learning.operators.progress import ProgressLog

log = logging.getLogger(__name__)


class BrokenState:
    def set(self, key, value):
        raise ConnectionError("no answer")


def test_a_thousand_steps_are_a_few_lines_and_a_few_writes(task, caplog, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds) * 0.1)
    writes = []
    monkeypatch.setattr(task.state, "set", lambda key, value: writes.append(value))
    report = ProgressLog(log, {"task_state_store": task.state})

    with caplog.at_level("INFO"):
        for step in range(1000):
            report({"phase": "train", "step": step, "loss": 1 / (step + 1)})

    assert 10 <= len(caplog.messages) <= 25
    assert 30 <= len(writes) <= 55
    assert caplog.messages[0] == "train: step 0, loss 1"


def test_every_phase_is_logged(caplog):
    report = ProgressLog(log, {})

    with caplog.at_level("INFO"):
        for phase in ("load", "train", "save"):
            report({"phase": phase})

    assert [message.split(":")[0] for message in caplog.messages] == ["load", "train", "save"]


def test_every_reason_is_logged(caplog):
    report = ProgressLog(log, {})

    with caplog.at_level("INFO"):
        for part in ("a", "b"):
            report({"phase": "features", "damaged": part, "reason": "cut off"})
            report({"phase": "features", "step": 1})

    assert caplog.messages == ["features: damaged a, reason cut off", "features: damaged b, reason cut off"]


def test_training_goes_on_when_the_state_cannot_be_written(caplog):
    report = ProgressLog(log, {"task_state_store": BrokenState()})

    report({"phase": "train", "step": 1})
    report({"phase": "save", "step": 2})

    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "Progress could not be stored (ConnectionError); training goes on"
    ]
