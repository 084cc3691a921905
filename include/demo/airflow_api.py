"""What the demo asks of Airflow's REST API, version 2."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx


class AirflowApi:
    """A client of one Airflow; log in before anything but :meth:`health`.

    Args:
        url: of the API server, without a path.
    """

    def __init__(self, url: str) -> None:
        # Loopback only: a proxy of the environment must not see it.
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def log_in(self, user: str, password: str) -> None:
        """Fetch a token and send it from now on."""
        answer = self._client.post("/auth/token", json={"username": user, "password": password}).raise_for_status()
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def health(self) -> dict[str, Any]:
        """Return the state of each part of Airflow."""
        return self._get("/monitor/health")

    def import_errors(self) -> list[str]:
        """Return the last line of each DAG import error."""
        return [str(error["stack_trace"]).strip().splitlines()[-1] for error in self._get("/importErrors")["import_errors"]]

    def dag_ids(self) -> set[str]:
        """Return the DAGs that are parsed by now."""
        return {dag["dag_id"] for dag in self._get("/dags", limit=100)["dags"]}

    def create_pool(self, name: str, slots: int) -> None:
        """Create a pool."""
        self._client.post("/api/v2/pools", json={"name": name, "slots": slots}).raise_for_status()

    def unpause(self, dag_id: str) -> None:
        """Let runs of the DAG start."""
        self._client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run with ``conf`` over the DAG's params, and return its run id.

        Raises:
            RuntimeError: Airflow refused the params.
        """
        answer = self._client.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise RuntimeError(f"Airflow refused the run's settings: {answer.json()['detail']}")
        return str(answer.raise_for_status().json()["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return the run with its state and its start and end dates."""
        return self._get(_path(dag_id, run_id))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run, of which one answer holds so many only."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._get(f"{_path(dag_id, run_id)}/taskInstances", limit=100, offset=len(found))
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def progress(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """Return what a running task last reported under the key ``progress`` of its task state; empty when it has not."""
        answer = self._client.get(f"/api/v2{_path(dag_id, run_id)}/taskInstances/{task_id}/state-store/progress")
        value = answer.json()["value"] if answer.is_success else {}
        return value if isinstance(value, dict) else {}

    def last_error(self, dag_id: str, run_id: str, task_id: str, attempt: int, map_index: int = -1) -> str:
        """Return the last error in a task's log, as one line."""
        place = f"{_path(dag_id, run_id)}/taskInstances/{task_id}/logs/{attempt}"
        content = self._get(place, full_content=True, map_index=map_index)["content"]
        lines = [entry for entry in content if isinstance(entry, dict) and entry.get("level") in ("error", "critical")]
        if not lines:
            return "no error in its log"
        causes = lines[-1].get("error_detail") or [{"exc_type": "", "exc_value": lines[-1]["event"]}]
        # The project's own errors are whole sentences; those of libraries need their name.
        kind = "" if causes[0]["exc_type"].startswith("Airflow") else causes[0]["exc_type"]
        return " ".join(f"{kind} {causes[0]['exc_value']}".split())

    def _get(self, path: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.get(f"/api/v2{path}", params=params).raise_for_status().json()
        return answer


def _path(dag_id: str, run_id: str) -> str:
    # Run ids hold '+' and ':'.
    return f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
