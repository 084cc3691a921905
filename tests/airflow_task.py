"""One task of one run, without a database: what Airflow's task runner does around an operator."""

from __future__ import annotations

import airflow_env  # noqa: F401  first of all

# isort: split
import dataclasses
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.execution_time.context import OutletEventAccessors

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
            "dag": DAG("dag", schedule=None, params=self.params),
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
