"""What the demo tells while a DAG runs, and where it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from demo.report import fetch_comparisons
from demo.story import describe, why_failed
from transfer_learning.store import Store
from transfer_learning.store.object_store import MemoryObjectStore

pytestmark = pytest.mark.integration


class Api:
    """An Airflow that knows these tasks."""

    def __init__(self, tasks: list[dict[str, Any]]) -> None:
        self._tasks = tasks

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return self._tasks

    def progress(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        return {"step": 3}

    def last_error(self, dag_id: str, run_id: str, task_id: str, attempt: int, map_index: int) -> str:
        return f"{task_id} {map_index} tried {attempt} times"


def task(name: str, state: str | None, weight: int, map_index: int = -1) -> dict[str, Any]:
    known = {"task_id": name, "state": state, "priority_weight": weight, "map_index": map_index, "try_number": 2}
    return known | {"end_date": f"2026-01-0{map_index + 2}"}


def test_the_mapped_tasks_of_one_name_are_counted() -> None:
    tasks = [task("fine_tune", state, 2, place) for place, state in enumerate(["success", None, "running", "success"])]
    tasks += [task("plan", "success", 3), task("compare", None, 1)]

    assert describe(Api(tasks), "dag", "run", tasks) == (  # type: ignore[arg-type]
        "plan success, fine_tune 1 running 2 success 1 waits, compare waits"
    )


def test_a_task_that_runs_tells_its_figures() -> None:
    tasks = [task("pull", "running", 1)]

    assert describe(Api(tasks), "dag", "run", tasks) == "pull running (step 3)"  # type: ignore[arg-type]


def test_the_log_of_a_mapped_task_that_failed_is_named() -> None:
    api = Api([task("fine_tune", "failed", 1, 3), task("evaluate", "failed", 1, 5)])

    assert why_failed(api, "dag", "run", Path("logs")) == (  # type: ignore[arg-type]
        "fine_tune: fine_tune 3 tried 2 times\nIts log: logs/dag_id=dag/run_id=run/task_id=fine_tune/map_index=3/attempt=2.log"
    )


def test_comparisons_are_fetched_with_their_pictures(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    for name in ("table.md", "curves.png"):
        objects.put(f"models/news/comparisons/{'a' * 64}/{name}", name.encode())
    objects.put("models/news/versions/000001.json", b"{}")

    folder = tmp_path / "out" / "aaaaaaaaaaaa"
    assert fetch_comparisons(Store(objects), tmp_path / "out") == ("table.md", [folder / "curves.png"])
    assert sorted((tmp_path / "out").rglob("*.*")) == [folder / "curves.png", folder / "table.md"]
