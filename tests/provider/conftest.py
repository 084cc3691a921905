"""What the tests of hook and operators share: an Airflow without a database, and the context of one task."""

from __future__ import annotations

import airflow_env  # noqa: F401  first of all

# isort: split
import dataclasses
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.execution_time.context import OutletEventAccessors

from transfer_learning.store import Store

RUN_AFTER = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)


class TaskState:
    """The task's own key-value store, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        assert value is not None
        self.values[key] = json.dumps(value)


@dataclasses.dataclass
class Task:
    """Runs an operator as Airflow would: render the fields, then execute; the second run is a retry."""

    conf: dict[str, Any] = dataclasses.field(default_factory=dict)
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    run_id: str = "run-1"
    run_after: datetime = RUN_AFTER
    state: TaskState = dataclasses.field(default_factory=TaskState)

    def context(self, operator: Any) -> dict[str, Any]:
        ti = SimpleNamespace(dag_id="dag", task_id=operator.task_id, run_id=self.run_id, map_index=-1, try_number=1)
        return {
            "ti": ti,
            "task": operator,
            "params": self.params | self.conf,
            "dag": SimpleNamespace(params=self.params),
            "dag_run": SimpleNamespace(run_after=self.run_after, conf=self.conf, triggering_user_name="ada"),
            "outlet_events": OutletEventAccessors(),
            "task_state_store": self.state,
        }

    def run(self, operator: Any) -> tuple[Any, dict[str, Any]]:
        """Return what the operator returned, and the context it ran in."""
        context = self.context(operator)
        self.render(operator, context)
        return operator.execute(context), context

    def render(self, operator: Any, context: dict[str, Any] | None = None) -> Any:
        """Render as the task runner does: with the DAG's environment, which is not a native one."""
        operator.render_template_fields(context or self.context(operator), DAG("dag", schedule=None).get_template_env())
        return operator


@pytest.fixture
def task() -> Task:
    return Task()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in a folder, behind the default connection."""
    root = f"file://{tmp_path}/store"
    monkeypatch.setenv(
        "AIRFLOW_CONN_TRANSFER_LEARNING_DEFAULT", json.dumps({"conn_type": "transfer_learning", "extra": {"root": root}})
    )
    return Store.open(root)


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Any:
    """Publishes a version of a model, evaluated or not."""
    made = itertools.count(1)

    def publish(name: str, decision: str | None = None) -> int:
        number = next(made)
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"number": {number}}}')
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        ref, _ = store.models.publish(
            name=name, folder=folder, publish_id=f"{number:064x}", fingerprint=f"{number:064x}", facts={"as_of": None}
        )
        if decision is not None:
            evidence = tmp_path / f"evaluation-{number}"
            evidence.mkdir()
            verdict = {
                "format": 1,
                "decision": decision,
                "passed": decision in ("passed", "first"),
                "sentences": [f"It {decision}."],
            }
            (evidence / "verdict.json").write_text(json.dumps(verdict))
            store.evaluations.write(name, ref.version, "0" * 16, evidence)
        return ref.version

    return publish
