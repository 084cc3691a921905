"""Runs the shipped DAGs in this process, with Airflow's own task runner and database."""

from __future__ import annotations

import airflow_env

# isort: split
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest

import tiny_pipeline
from transfer_learning.store import Store


@dataclasses.dataclass(frozen=True)
class Finished:
    """One run of a DAG, as Airflow recorded it."""

    state: str
    tasks: dict[str, str]
    results: dict[str, Any]


@pytest.fixture(scope="session")
def airflow_database() -> None:
    from airflow.utils.db import initdb

    initdb()


@contextlib.contextmanager
def triggered_by(extras: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Give the next DAG run events of its model's asset, as the scheduler does; ``dag.test()`` knows only manual runs."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.dagrun import DagRun
    from sqlalchemy import event, select
    from sqlalchemy.orm import Session

    def add_events(session: Session, *_: object) -> None:
        for run in [new for new in session.new if isinstance(new, DagRun)]:
            with session.no_autoflush:
                of_dag = select(AssetModel).where(AssetModel.scheduled_dags.any(dag_id=run.dag_id))
                asset = session.scalars(of_dag).one() if extras else None
            run.consumed_asset_events.extend(AssetEvent(asset_id=asset.id, extra=extra) for extra in extras)

    event.listen(Session, "before_flush", add_events)
    try:
        yield
    finally:
        event.remove(Session, "before_flush", add_events)


@pytest.fixture(scope="session")
def shipped_dags(airflow_database: None) -> dict[str, Any]:
    """The shipped DAGs by their ids."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(airflow_env.REPOSITORY / "dags"))
    assert bag.import_errors == {}
    return dict(bag.dags)


@pytest.fixture(scope="session")
def run_dag(shipped_dags: dict[str, Any]) -> Callable[..., Finished]:
    """Runs a shipped DAG once, as of a day of March 2026, started by events of its asset or by hand."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    def run(dag_id: str, day: datetime, *, events: Sequence[dict[str, Any]] = (), **conf: Any) -> Finished:
        for task in shipped_dags[dag_id].tasks:
            task.retries = 0  # dag.test() waits the whole retry delay
        with triggered_by(events):
            dag_run = shipped_dags[dag_id].test(logical_date=None, run_after=day, run_conf=conf)
        tasks = {ti.task_id: str(ti.state) for ti in dag_run.get_task_instances()}
        with create_session() as session:
            found = session.scalars(XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_id, key="return_value"))
            results = {entry.task_id: XComModel.deserialize_value(entry) for entry in found}
        return Finished(str(dag_run.state), tasks, results)

    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An empty store in a folder, behind the default connection."""
    root = tmp_path_factory.mktemp("store").as_uri()
    connection = {"conn_type": "transfer_learning", "extra": {"root": root}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_TRANSFER_LEARNING_DEFAULT", json.dumps(connection))
        yield Store.open(root)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a tiny base model."""
    return tiny_pipeline.write_base(tmp_path_factory.mktemp("bases") / "tiny")
