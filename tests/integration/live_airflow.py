"""A real Airflow and a real S3 server, a training of half a minute in it, and everything that can befall a training."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil

from demo.airflow_home import USER, AirflowHome
from demo.processes import Processes
from demo.seaweedfs import REGION, SeaweedFS
from tiny_pipeline import headlines, write_base, write_csv
from transfer_learning.jobs import run_job
from transfer_learning.refs import DatasetRef
from transfer_learning.sources import stage_sources
from transfer_learning.specs import PullSpec
from transfer_learning.store import Store

BUCKET = "live"
EVENTS = ("undisturbed", "marked_failed", "cleared", "terminated", "task_killed", "child_killed")
"""Each has a run and a store of its own: the same training in the same store would be found and not done again."""
EPOCHS = 120
"""About 20 s of training on one idle core."""
LEASE_SECONDS = 9
HEARTBEAT_SECONDS = 1
"""How soon a task hears from Airflow that it was marked or cleared; Airflow's default is 5 s."""
DAGS = Path(__file__).parent / "live_dags"


class Training:
    """The task ``fine_tune`` of one run.

    Args:
        live: the Airflow it runs in.
        event: what will befall it; names its store.
        run_id: the run's.
    """

    def __init__(self, live: LiveAirflow, event: str, run_id: str) -> None:
        self.event, self.run_id, self.store, self.started = event, run_id, live.store(event), time.monotonic()
        self.ended: float | None = None
        """Where it is known to be earlier than now, s on the monotonic clock."""
        self._live = live
        self._path = f"/dags/survive/dagRuns/{quote(run_id, safe='')}/taskInstances/fine_tune"

    def task(self) -> dict[str, Any]:
        """Return the task instance as Airflow tells it."""
        return self._live.get(self._path)

    def log(self, attempt: int) -> str:
        """Return the log of one try."""
        content = self._live.get(f"{self._path}/logs/{attempt}", full_content=True)["content"]
        return "\n".join(entry["event"] + json.dumps(entry.get("error_detail") or "") for entry in content)

    def tries(self) -> list[str]:
        """Return how each try ended, the newest as it stands."""
        return [one["state"] for one in self._live.get(f"{self._path}/tries")["task_instances"]]

    def resumed_at(self, attempt: int) -> int:
        """Return the step that a try went on from, by the first one it did itself; 0 when it started over."""
        found = re.search(r"fine_tune: step (\d+)", self.log(attempt))
        return int(found.group(1)) - 1 if found else 0

    def kept(self, name: str) -> Any:
        """Return what the task keeps under ``name`` across its tries."""
        return self._live.get(f"{self._path}/state-store/{name}")["value"]

    def mark_failed(self) -> None:
        """Mark the task failed, as a person does."""
        self._live.call("PATCH", self._path, {"new_state": "failed"})

    def clear(self) -> None:
        """Clear the task, as a person does."""
        body = {"dry_run": False, "dag_run_id": self.run_id, "task_ids": ["fine_tune"], "only_failed": False}
        self._live.call("POST", "/dags/survive/clearTaskInstances", body)

    def child(self) -> psutil.Process:
        """Wait for the run's child process and return it; its parent is the task's process."""
        return wait_for(self._find_child, 60, f"the child of {self.event}")

    def checkpoints(self) -> list[str]:
        """Return the keys of the complete checkpoints in the store."""
        return [info.key for info in self.store.objects.list("checkpoints/") if info.key.endswith("_COMPLETE.json")]

    def in_the_middle(self) -> psutil.Process:
        """Wait until the training has a checkpoint in the store and return the child."""
        child = self.child()
        wait_for(self.checkpoints, 120, f"a checkpoint of {self.event}")
        return child

    def until(self, *states: str, seconds: float = 300, attempt: int = 1) -> dict[str, Any]:
        """Wait until the task, in its try ``attempt`` or later, has one of ``states``."""

        def reached() -> dict[str, Any] | None:
            task = self.task()
            return task if task["state"] in states and task["try_number"] >= attempt else None

        return wait_for(reached, seconds, f"{self.event} to be {' or '.join(states)}")

    def first_end(self) -> str:
        """Wait until the first try is over and return its state then, or the state that Airflow's history gives it."""

        def ended() -> str | None:
            task = self.task()
            if task["try_number"] > 1:
                return self.tries()[0]
            return None if task["state"] == "running" else str(task["state"])

        return str(wait_for(ended, 30, f"the end of the first try of {self.event}"))

    def _find_child(self) -> psutil.Process | None:
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "transfer_learning.run" in command and is_alive(process) and self._is_mine(Path(command[-1])):
                return process
        return None

    def _is_mine(self, job: Path) -> bool:
        try:
            return bool(json.loads(job.read_text())["facts"].get("run") == self.run_id)
        except (OSError, ValueError):
            return False


class LiveAirflow:
    """The running Airflow, its REST API and its stores.

    Args:
        url: of the API server.
        password: of the demo's user.
        s3: the S3 server.
        conf: params that every run gets.
    """

    def __init__(self, url: str, password: str, s3: SeaweedFS, conf: dict[str, Any]) -> None:
        self.s3, self.conf = s3.client(), conf
        self.rows: list[tuple[str, ...]] = []
        """What the tests saw."""
        self.trainings: dict[str, Training] = {}
        """Those that were started, by event."""
        self._client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        answer = self._client.post("/auth/token", json={"username": USER, "password": password}).raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def close(self) -> None:
        """Close its connections."""
        self._client.close()
        self.s3.close()

    def store(self, event: str) -> Store:
        """Return the store of one event."""
        return Store.open(root(event), s3_client=self.s3)

    def train(self, event: str) -> Training:
        """Start the training that ``event`` will befall."""
        self.trainings[event] = Training(self, event, self.trigger("survive", event))
        return self.trainings[event]

    def trigger(self, dag_id: str, event: str, **conf: Any) -> str:
        """Start a run on the store of ``event`` and return its id."""
        body = {"logical_date": None, "conf": self.conf | {"store": connection_id(event)} | conf}
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def tell(self, training: Training, state: str, retry: str, gone: float) -> None:
        """Keep what happened for the table at the end."""
        seconds = (training.ended or time.monotonic()) - training.started
        self.rows.append((training.event, state, retry, f"{gone:.1f}", f"{seconds:.0f}"))

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run, once Airflow has parsed it."""
        wait_for(lambda: self._client.get(f"/api/v2/dags/{dag_id}").is_success, 90, f"DAG {dag_id}")
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self.get(f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")["state"])

    def runs(self, dag_id: str) -> list[str]:
        """Return the ids of a DAG's runs."""
        return [run["dag_run_id"] for run in self.get(f"/dags/{dag_id}/dagRuns")["dag_runs"]]

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path, deserialize=True)["value"]

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Return an answer of the REST API."""
        return dict(self._client.get(f"/api/v2{path}", params=params).raise_for_status().json())

    def call(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Change something through the REST API."""
        return dict(self._client.request(method, f"/api/v2{path}", json=body).raise_for_status().json())


@contextmanager
def live_airflow(folder: Path) -> Iterator[LiveAirflow]:
    """Start everything, and stop it at the end."""
    processes = Processes(folder)
    with SeaweedFS(folder / "s3", buckets=[BUCKET]) as s3:
        try:
            home = AirflowHome(folder / "airflow", DAGS, processes, variables(s3), schedules=True)
            home.start().close()
            live = LiveAirflow(home.url, home.password, s3, {"epochs": EPOCHS, "base": write_base(folder / "base")})
            live.conf["dataset"] = publish_dataset(folder / "data", [live.store(event) for event in EVENTS])
            for dag_id in ("survive", "go_live", "consume"):
                live.unpause(dag_id)
            with closing(live):
                yield live
        finally:
            processes.stop()


def variables(s3: SeaweedFS) -> dict[str, str]:
    """Return the environment of Airflow: a store for each event, one thread for each training, and a short lease."""
    extra = {"endpoint_url": s3.endpoint, "region_name": REGION, "config_kwargs": {"s3": {"addressing_style": "path"}}}
    aws = {"conn_type": "aws", "login": s3.access_key, "password": s3.secret_key, "extra": extra}
    stores = {
        f"AIRFLOW_CONN_{connection_id(event).upper()}": json.dumps(
            {"conn_type": "transfer_learning", "extra": {"root": root(event), "aws_conn_id": "aws_default"}}
        )
        for event in EVENTS
    }
    return stores | {
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws),
        "AIRFLOW__TRANSFER_LEARNING__LEASE_SECONDS": str(LEASE_SECONDS),
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": str(HEARTBEAT_SECONDS),
        "OMP_NUM_THREADS": "1",
    }


def publish_dataset(folder: Path, stores: list[Store]) -> dict[str, Any]:
    """Publish one snapshot of headlines in every store and return its ref."""
    source = write_csv(folder / "news.csv", headlines(400, seed=1))
    task = {"text": "headline", "label": "topic", "id": "id"}
    spec = PullSpec.from_dict({"name": "news", "source": source, "task": task, "split": {"test": 0.5}})
    stage_sources(spec, folder / "source")
    as_of = "2026-03-01T06:00:00+00:00"
    facts = {"as_of": as_of, "window": None, "rule": None, "reset": False}
    (folder / "job").mkdir()
    job = run_job("pull_dataset", spec, {"source": [folder / "source"]}, work=folder / "job", facts=facts)
    for store in stores:
        manifest, _ = store.datasets.publish("news", job.out)
    fields = {name: manifest[name] for name in ("name", "digest", "rows", "splits", "schema")}
    return DatasetRef(**fields, as_of=as_of).to_dict()


def connection_id(event: str) -> str:
    """Return the Airflow connection of an event's store."""
    return f"store_{event}"


def root(event: str) -> str:
    """Return where an event's store lies."""
    return f"s3://{BUCKET}/{event}"


def wait_for(look: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first true answer of ``look``.

    Raises:
        AssertionError: none came in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")


def gone_after(process: psutil.Process, since: float, seconds: float = 5.0) -> float:
    """Wait until a process is gone and return how long that took.

    Raises:
        AssertionError: it still runs after ``seconds``.
    """
    while is_alive(process):
        assert time.monotonic() - since < seconds, f"process {process.pid} still runs {seconds:.0f} s later"
        time.sleep(0.02)
    return time.monotonic() - since


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still does anything."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(process: psutil.Process | None, number: signal.Signals) -> float:
    """Send a signal and return when, s on the monotonic clock."""
    assert process is not None
    now = time.monotonic()
    os.kill(process.pid, number)
    return now
