"""One day of the story: the day's file goes to the bucket, the shipped DAG runs, and a line tells how far it is."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.airflow_api import AirflowApi
from demo.corpus import Corpus

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DAG, COMPARISON = "retrain_text_classifier", "compare_strategies"
POLL_SECONDS = 0.5
QUIET_SECONDS = 20.0
"""Between two lines without a change, where the output is no terminal."""
FINAL = ("success", "failed")


class RunFailed(Exception):
    """A run of the DAG ended in failure; the message is the task's own line and where its log lies."""


def upload(client: S3Client, bucket: str, prefix: str, corpus: Corpus, day: int) -> None:
    """Replace the training file by that of day 1 or 2, and upload the test set, all labels and the general text."""
    client.upload_file(str(corpus.days[day - 1]), bucket, f"{prefix}/train/labelled-so-far.csv")
    client.upload_file(str(corpus.golden), bucket, f"{prefix}/test/golden.csv")
    client.upload_file(str(corpus.all_labelled), bucket, f"{prefix}/all-labelled/all.csv")
    client.upload_file(str(corpus.general), bucket, "general/python-reference.csv")


def wait_for_dag(api: AirflowApi, check: Callable[[], None], dag: str = DAG, seconds: float = 90.0) -> None:
    """Wait until Airflow has parsed the DAG.

    Raises:
        RuntimeError: a DAG file cannot be imported, or nothing was parsed in time.
    """
    deadline = time.monotonic() + seconds
    while dag not in api.dag_ids():
        check()
        if errors := api.import_errors():
            raise RuntimeError(f"Airflow cannot import a DAG: {errors[0]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"Airflow had not parsed {dag} after {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def run_to_end(
    api: AirflowApi, conf: Mapping[str, Any], title: str, logs: Path, check: Callable[[], None], dag: str = DAG
) -> str:
    """Trigger a DAG, show its progress until it has ended, and return its run id.

    Raises:
        RunFailed: the run failed.
        RuntimeError: Airflow refused the settings, or one of its processes ended.
    """
    run_id, started, line = api.trigger(dag, dict(conf)), time.monotonic(), ProgressLine()
    retried: set[tuple[str, int, int]] = set()
    while (state := api.run(dag, run_id)["state"]) not in FINAL:
        check()
        tasks = api.tasks(dag, run_id)
        for task in tasks:
            attempt = (task["task_id"], task["try_number"], task["map_index"])
            if task["state"] == "up_for_retry" and attempt not in retried:
                retried.add(attempt)
                error = api.last_error(dag, run_id, *attempt)
                line.close(title, time.monotonic() - started, f"{task['task_id']} will be tried again: {error}", wrap=True)
        line.show(title, time.monotonic() - started, describe(api, dag, run_id, tasks))
        time.sleep(POLL_SECONDS)
    line.close(title, time.monotonic() - started, describe(api, dag, run_id, api.tasks(dag, run_id)))
    if state == "failed":
        raise RunFailed(why_failed(api, dag, run_id, logs))
    return run_id


def describe(api: AirflowApi, dag: str, run_id: str, tasks: Sequence[dict[str, Any]]) -> str:
    """Return the run's tasks in their order with the state of each, and the newest figures of the one that runs.

    Of a mapped task it says how many are in which state.
    """
    words = []
    # The default weight of a task counts what comes after it, so the first task has the highest.
    ordered = sorted(tasks, key=lambda task: (-task["priority_weight"], task["task_id"]))
    for name, group in itertools.groupby(ordered, key=itemgetter("task_id")):
        states = [task["state"] or "waits" for task in group]
        if len(states) > 1:
            counts = Counter(states)
            words.append(f"{name} {' '.join(f'{counts[state]} {state}' for state in sorted(counts))}")
            continue
        figures = api.progress(dag, run_id, name) if states[0] == "running" else {}
        words.append(f"{name} {states[0]}{figures_in_short(figures)}")
    return ", ".join(words)


def figures_in_short(figures: Mapping[str, Any]) -> str:
    """Return a job's progress such as ``" (step 40, loss 0.412)"``; empty without figures."""
    known = [(name, figures[name]) for name in ("phase", "epoch", "step", "steps", "loss") if figures.get(name) is not None]
    shown = ", ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in known)
    return f" ({shown})" if shown else ""


def why_failed(api: AirflowApi, dag: str, run_id: str, logs: Path) -> str:
    """Return the failed task's error as one line, and the path of its log."""
    failed = [task for task in api.tasks(dag, run_id) if task["state"] == "failed"]
    if not failed:
        return f"run {run_id} failed without a failed task; see {logs}"
    task = min(failed, key=lambda task: task["end_date"] or "")
    mapped = (f"map_index={task['map_index']}",) if task["map_index"] >= 0 else ()
    log = logs.joinpath(
        f"dag_id={dag}", f"run_id={run_id}", f"task_id={task['task_id']}", *mapped, f"attempt={task['try_number']}.log"
    )
    error = api.last_error(dag, run_id, task["task_id"], task["try_number"], task["map_index"])
    return f"{task['task_id']}: {error}\nIts log: {log}"


class ProgressLine:
    """One line that is rewritten on a terminal; elsewhere a new line at each change of a task's state, or now and then."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._shown = ""
        self._next = 0.0

    def show(self, title: str, seconds: float, text: str, *, wrap: bool = False) -> None:
        """Show where the run is."""
        if self._live:
            line = f"{title}  {seconds:4.0f} s  {text}"
            print(f"\r\033[K{line if wrap else line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
            return
        states = re.sub(r" \([^)]*\)", "", text)
        if states != self._shown or seconds >= self._next:
            print(f"{title}  {seconds:4.0f} s  {text}", flush=True)
            self._shown, self._next = states, seconds + QUIET_SECONDS

    def close(self, title: str, seconds: float, text: str, *, wrap: bool = False) -> None:
        """Show something that stays; the next line is a new one."""
        self.show(title, seconds, text, wrap=wrap)
        if self._live:
            print()
