"""One Airflow for all live tests: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.live_airflow import LiveAirflow, Training, live_airflow


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[LiveAirflow]:
    """A running Airflow with the DAGs of ``live_dags``; what the tests saw is printed at the end."""
    with live_airflow(tmp_path_factory.mktemp("live")) as running:
        running.train("undisturbed")  # beside the others; each training takes one core
        yield running
        reporter = request.config.pluginmanager.getplugin("terminalreporter")
        reporter.write_line("")
        for row in (("event", "state of the task afterwards", "what the retry did", "child gone, s", "seconds"), *running.rows):
            reporter.write_line(" | ".join(row))


@pytest.fixture(scope="session")
def undisturbed(live: LiveAirflow) -> Training:
    """The training that nothing befalls, at its end."""
    training = live.trainings["undisturbed"]
    task = training.until("success", "failed")
    assert task["state"] == "success", training.log(task["try_number"])[-3000:]
    training.ended = training.started + float(task["duration"])
    live.tell(training, task["state"], "none", 0.0)
    return training
