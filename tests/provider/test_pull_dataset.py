"""From files and queries to a snapshot, through a real child process."""

import json
import os
import sqlite3
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_transfer_learning.operators import PullDatasetOperator
from tiny_pipeline import headlines, write_csv
from transfer_learning.errors import StoreUnreachable
from transfer_learning.refs import DatasetRef, PlanRef
from transfer_learning.store.datasets import DatasetStore

MISBEHAVING = Path(__file__).parents[1] / "learning" / "misbehaving"
TASK = {"text": "headline", "label": "topic", "id": "id"}
SECRET = "canary-51c2-secret"


@pytest.fixture
def news(tmp_path):
    """The URI of forty labelled headlines."""
    return write_csv(tmp_path / "news.csv", headlines(40, seed=1))


def pull(source, **options):
    spec = {"name": "news", "source": source, "task": TASK} | options.pop("spec", {})
    return PullDatasetOperator(**{"task_id": "pull", "spec": spec} | options)


def everything(store):
    return {info.key: store.objects.get(info.key).data for info in store.objects.list("")}


def test_a_file_becomes_a_snapshot_as_of_the_run(task, store, news):
    result, _ = task.run(pull(news))
    ref = DatasetRef.from_dict(json.loads(json.dumps(result)))

    assert (ref.name, ref.rows, ref.as_of) == ("news", 40, "2026-03-01T06:00:00+00:00")
    assert ref.splits["train"] + ref.splits["test"] == 40
    assert store.datasets.manifest("news", ref.digest)["task"]["label"] == "topic"


def test_pulling_again_in_another_order_writes_nothing(task, store, news, tmp_path):
    first, _ = task.run(pull(news))
    before = everything(store)
    write_csv(tmp_path / "news.csv", headlines(40, seed=1)[::-1])
    task.run_id, task.run_after = "run-2", task.run_after + timedelta(days=1)

    second, _ = task.run(pull(news))

    assert second == first | {"as_of": "2026-03-02T06:00:00+00:00"}
    assert everything(store) == before


def test_new_rows_upload_only_what_is_new_and_move_no_row(task, store, news, tmp_path):
    first, _ = task.run(pull(news))
    write_csv(tmp_path / "news.csv", headlines(40, seed=1) + headlines(10, seed=2, first_id=100))

    second, _ = task.run(pull(news))

    parts = [{part["sha256"] for part in store.datasets.manifest("news", ref["digest"])["parts"]} for ref in (first, second)]
    assert parts[0] < parts[1]
    assert second["rows"] == 50


def test_the_plans_settings_and_time_are_used(task, store, news):
    plan = PlanRef(
        model="news", base="file:///b", as_of="2026-02-14T00:00:00+00:00", overrides={"pull": {"split": {"test": 0.5}}}
    ).to_dict()

    result, _ = task.run(pull(news, plan=plan))

    assert result["as_of"] == "2026-02-14T00:00:00+00:00"
    assert store.datasets.rule("news")["test"] == 0.5


@pytest.fixture
def warehouse(tmp_path, monkeypatch):
    """A database of headlines with their times, behind a connection with a secret."""
    path = tmp_path / "news.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE news (id TEXT, headline TEXT, topic TEXT, seen TEXT)")
        rows = [
            (row["id"], row["headline"], row["topic"], f"2026-02-{1 + n % 28:02d}T00:00:00+00:00")
            for n, row in enumerate(headlines(56, 1))
        ]
        database.executemany("INSERT INTO news VALUES (?, ?, ?, ?)", rows)
    database.close()
    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path), "extra": {"token": SECRET}})
    )


def test_a_query_becomes_a_snapshot_without_its_secret(task, store, warehouse, capfd, caplog):
    result, _ = task.run(pull("sql://warehouse", spec={"query": "SELECT id, headline, topic FROM news"}))

    printed = capfd.readouterr()
    assert result["rows"] == 56
    assert SECRET not in printed.out + printed.err + caplog.text + json.dumps(result)
    assert not any(SECRET.encode() in data for data in everything(store).values())


def test_a_window_ends_at_the_runs_own_time(task, store, warehouse):
    spec = {"query": "SELECT * FROM news", "task": TASK | {"time": "seen"}, "window": "P14D"}

    result, _ = task.run(pull("sql://warehouse", spec=spec))

    manifest = store.datasets.manifest("news", result["digest"])
    assert manifest["window"] == {"start": "2026-02-15T06:00:00+00:00", "end": "2026-03-01T06:00:00+00:00"}
    assert result["rows"] == 26


def test_a_reason_to_reset_the_split_rule_counts_once(task, store, news):
    task.run(pull(news))
    reset = {"split": {"test": 0.5}, "reset_split": "more test rows"}

    task.run(pull(news, spec=reset))
    once = everything(store)
    task.run(pull(news, spec=reset))
    with pytest.raises(AirflowFailException):
        task.run(pull(news, spec=reset | {"split": {"test": 0.3}}))

    assert store.datasets.resets("news") == ["more test rows"]
    assert store.datasets.rule("news")["test"] == 0.5
    assert everything(store) == once


@pytest.mark.parametrize("step", ["publish", "reset_rule"])
def test_a_reset_that_ends_halfway_is_done_by_the_retry(task, store, news, tmp_path, monkeypatch, step):
    task.run(pull(news))
    numbered = tmp_path / "numbered.jsonl"
    rows = [row | {"id": int(row["id"].removeprefix("h"))} for row in headlines(40, seed=1)]
    numbered.write_text("".join(json.dumps(row) + "\n" for row in rows))
    operator = pull(numbered.as_uri(), spec={"split": {"test": 0.5}, "reset_split": "ids are numbers now"})

    def dies(*arguments, **options):
        raise StoreUnreachable("the task is gone")

    with monkeypatch.context() as patch, pytest.raises(AirflowException, match="the task is gone"):
        patch.setattr(DatasetStore, step, dies)
        task.run(operator)
    result, _ = task.run(operator)

    assert store.datasets.resets("news") == ["ids are numbers now"]
    assert (store.datasets.rule("news")["test"], store.datasets.latest("news")["digest"]) == (0.5, result["digest"])


def test_a_rule_of_an_earlier_release_is_filled_in_and_holds_the_text_column_from_then_on(task, store, news):
    task.run(pull(news))
    whole = store.datasets.rule("news")
    earlier = {field: value for field, value in whole.items() if field != "texts"}
    store.datasets.reset_rule("news", earlier, reason="as an earlier release wrote it", actor="ada")

    task.run(pull(news))

    assert store.datasets.rule("news") == whole
    with pytest.raises(AirflowFailException, match="^SPLIT_RULE_CHANGED .* texts headline -> topic"):
        task.run(pull(news, spec={"task": TASK | {"text": "topic", "label": "headline"}}))


def test_another_split_rule_without_a_reason_is_one_clear_line(task, store, news):
    task.run(pull(news))
    before = everything(store)

    with pytest.raises(AirflowFailException) as caught:
        task.run(pull(news, spec={"split": {"test": 0.5}}))

    assert "\n" not in str(caught.value)
    assert everything(store) == before


@pytest.mark.parametrize(
    ("source", "spec", "line"),
    [
        ("s3://bucket/*.csv", {}, "NO_CONNECTION there is no AWS connection 'aws_default'"),
        ("sql://nowhere", {"query": "SELECT 1"}, "NO_CONNECTION sql://nowhere there is no connection 'nowhere'"),
        ("file:///nowhere/*.csv", {}, "NO_SOURCE file:///nowhere/*.csv nothing is there"),
    ],
)
def test_a_source_that_is_not_there_is_one_clear_line(task, store, source, spec, line):
    with pytest.raises(AirflowFailException) as caught:
        task.run(pull(source, spec=spec))

    assert str(caught.value).startswith(line)
    assert everything(store) == {}


def test_bad_rows_are_one_clear_line_and_nothing_is_written(task, store, tmp_path):
    rows = [*headlines(10, seed=1), {"id": "x", "headline": "no label", "topic": ""}]

    with pytest.raises(AirflowFailException, match=r"topic") as caught:
        task.run(pull(write_csv(tmp_path / "news.csv", rows)))

    assert "\n" not in str(caught.value)
    assert everything(store) == {}


@pytest.fixture
def misbehaving(monkeypatch, news):
    """Makes a pull whose child does what its dataset is called."""
    path = os.pathsep.join([str(MISBEHAVING), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    return lambda name: pull(news, spec={"name": name})


@pytest.mark.parametrize(
    ("name", "becomes", "line"),
    [
        ("bad", AirflowFailException, "EMPTY_FILE news.csv holds no rows"),
        ("diverge", AirflowFailException, "DIVERGED loss is NaN at step 7"),
        ("crash", AirflowException, "ValueError: the middle of nowhere"),
        ("kill", AirflowException, "KILLED stage pull_dataset"),
    ],
)
def test_every_end_of_the_child_fails_or_retries_with_one_line(task, store, misbehaving, name, becomes, line):
    with pytest.raises(AirflowException) as caught:
        task.run(misbehaving(name))

    assert type(caught.value) is becomes
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(store) == {}


@pytest.mark.parametrize("name", ["polite", "stubborn"])
def test_a_stopped_task_raises_soon_and_leaves_no_child_and_no_files(task, store, misbehaving, name):
    operator = misbehaving(name)
    seen = threading.Event()
    task.state.set = lambda key, value: (setattr(task, "progress", value), seen.set())
    killer = threading.Thread(target=lambda: (seen.wait(30), operator.on_kill()))
    killer.start()

    with pytest.raises(AirflowException, match="^STOPPED"):
        task.run(operator)
    killer.join()

    assert not Path(f"/proc/{task.progress['pid']}").exists()
    assert list((operator.deployment.cache_folder / "work").iterdir()) == []
    assert everything(store) == {}


def test_a_task_that_is_stopped_while_it_waits_ends_within_five_seconds(task, store, misbehaving):
    operator = misbehaving("stubborn")
    started = []
    task.state.set = lambda key, value: (started.append(time.monotonic()), operator.on_kill())

    with pytest.raises(AirflowException, match="^STOPPED"):
        task.run(operator)

    assert time.monotonic() - started[0] < 5
