"""What comes from people and clocks: missing versions, rows that change between two tries, template text in a form."""

import json

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import PlanOperator, PromoteOperator, PullDatasetOperator
from tiny_pipeline import headlines, write_csv
from transfer_learning.errors import StoreUnreachable
from transfer_learning.refs import ModelRef, VerdictRef
from transfer_learning.store.datasets import DatasetStore

TASK = {"text": "headline", "label": "topic", "id": "id"}
TEMPLATE = "{{ 7 * 6 }}{{ conn.minio.password }}"


def everything(store):
    return {info.key: store.objects.get(info.key).data for info in store.objects.list("")}


@pytest.mark.parametrize(("override", "code"), [(None, "UNEVALUATED"), ("because", "NO_VERSION")])
def test_a_version_that_does_not_exist_is_never_promoted(task, store, published, override, code):
    published("news", "passed")
    before = everything(store)
    model = ModelRef(name="news", version=9, uri="file:///x", publish_id="p", fingerprint="f").to_dict()
    verdict = VerdictRef(
        model=model, champion=None, champion_generation=None, passed=True, decision="passed", sentences=[], uri="file:///e"
    ).to_dict()
    operator = PromoteOperator(task_id="promote", verdict=verdict, override_reason=override, on_refused="fail")

    with pytest.raises(AirflowFailException) as caught:
        task.run(operator)

    assert str(caught.value).startswith(code)
    assert "\n" not in str(caught.value)
    assert everything(store) == before


def test_rows_that_change_between_two_tries_are_never_mixed(task, store, tmp_path, monkeypatch):
    source = write_csv(tmp_path / "news.csv", headlines(40, seed=1))
    operator = PullDatasetOperator(task_id="pull", spec={"name": "news", "source": source, "task": TASK})
    publish = DatasetStore.publish
    with monkeypatch.context() as patch:

        def dies(self, name, folder):
            publish(self, name, folder)
            raise StoreUnreachable("the answer was lost, and the task with it")

        patch.setattr(DatasetStore, "publish", dies)
        with pytest.raises(AirflowException):
            task.run(operator)
    write_csv(tmp_path / "news.csv", headlines(40, seed=2, first_id=20))

    again, _ = task.run(operator)
    alone, _ = Task(run_id="other").run(operator)

    manifest = store.datasets.manifest("news", again["digest"])
    assert (again["rows"], manifest["digest"]) == (40, store.datasets.latest("news")["digest"])
    assert alone == again


def test_template_text_in_a_runs_conf_is_literal_all_the_way(task, store, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MINIO", json.dumps({"conn_type": "aws", "password": "canary-secret"}))
    rows = [row | {TEMPLATE: row["topic"]} for row in headlines(40, seed=1)]
    spec = {"name": "news", "source": write_csv(tmp_path / "news.csv", rows), "task": TASK}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"x")
    task.conf = {"label": TEMPLATE}
    overrides = {"pull": {"task": {"label": "{{ params.label }}"}}}
    plan = PlanOperator(task_id="plan", model="news", base=(tmp_path / "base").as_uri(), pull=spec, overrides=overrides)

    planned, _ = task.run(plan)
    task.conf = {"plan": planned}
    pulled, _ = task.run(PullDatasetOperator(task_id="pull", spec=spec, plan="{{ params.plan }}"))

    assert planned["overrides"] == {"pull": {"task": {"label": TEMPLATE}}}
    assert store.datasets.manifest("news", pulled["digest"])["task"]["label"] == TEMPLATE
    assert not [data for data in everything(store).values() if b"canary-secret" in data]
