"""The keys of a connection stay in it: in no log, no XCom, no rendered field, no file, no object, no traceback."""

import json
import logging
import sqlite3
import traceback
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowException

from airflow_task import Task
from airflow_transfer_learning.hooks import sql
from airflow_transfer_learning.operators import (
    EvaluateOperator,
    FeatureExtractOperator,
    FineTuneOperator,
    PlanOperator,
    PromoteOperator,
    PullDatasetOperator,
)
from airflow_transfer_learning.operators.base import jobs
from tiny_pipeline import headlines, write_base, write_csv
from transfer_learning.refs import DatasetRef, ModelRef, VerdictRef
from transfer_learning.store import Store

CANARY = "canary/9f31+secret=="
QUICK = {"epochs": 2, "backbone_lr": 0.005}
DATASET = DatasetRef(name="news", digest="0" * 64, rows=1, splits={}, schema={}, as_of="2026-03-01T00:00:00+00:00").to_dict()
MODEL = ModelRef(name="news", version=1, uri="s3://tests/x", publish_id="p", fingerprint="f").to_dict()
VERDICT = VerdictRef(
    model=MODEL, champion=None, champion_generation=None, passed=True, decision="passed", sentences=[], uri="s3://tests/e"
).to_dict()


@pytest.fixture
def connect(seaweedfs, monkeypatch):
    """Points the store at a prefix of the real server with these credentials."""

    def define(prefix, login, password):
        extra = {"endpoint_url": seaweedfs.endpoint, "region_name": "us-east-1"}
        aws = {"conn_type": "aws", "login": login, "password": password, "extra": extra}
        store = {"conn_type": "transfer_learning", "extra": {"root": f"s3://tests/{prefix}", "aws_conn_id": "minio"}}
        monkeypatch.setenv("AIRFLOW_CONN_MINIO", json.dumps(aws))
        monkeypatch.setenv("AIRFLOW_CONN_TRANSFER_LEARNING_DEFAULT", json.dumps(store))

    return define


def operators(base, source, dataset=DATASET, model=MODEL, verdict=VERDICT):
    spec = {"name": "news", "source": source, "task": {"text": "headline", "label": "topic", "id": "id"}, "split": {"test": 0.5}}
    return {
        "plan": PlanOperator(task_id="plan", model="news", base=base, pull=spec),
        "pull": PullDatasetOperator(task_id="pull", spec=spec),
        "extract": FeatureExtractOperator(task_id="extract", spec={}, dataset=dataset, base=base),
        "train": FineTuneOperator(task_id="train", spec=QUICK, dataset=dataset, model="news", base=base),
        "evaluate": EvaluateOperator(task_id="evaluate", spec={}, candidate=model, dataset=dataset),
        "promote": PromoteOperator(task_id="promote", verdict=verdict, override_reason="a test"),
    }


@pytest.fixture
def kept(monkeypatch):
    """Everything that a child was given and left behind, before its folder is removed."""
    texts = []
    run_job = jobs.run_job

    def watched(stage, spec, inputs, *, work, **options):
        try:
            return run_job(stage, spec, inputs, work=work, **options)
        finally:
            texts.extend(path.read_bytes() for path in Path(work).rglob("*") if path.is_file())

    monkeypatch.setattr(jobs, "run_job", watched)
    return texts


@pytest.mark.promise(25)
@pytest.mark.integration
def test_a_whole_run_leaves_the_keys_nowhere(connect, kept, seaweedfs, s3, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG, logger="transfer_learning")
    caplog.set_level(logging.DEBUG, logger="airflow_transfer_learning")
    connect("secrets", seaweedfs.access_key, seaweedfs.secret_key)
    write_csv(tmp_path / "news.csv", headlines(80, seed=1))
    s3.upload_file(str(tmp_path / "news.csv"), "tests", "raw/n.csv")
    base, task, told = write_base(tmp_path / "base"), Task(), {}

    for name in ("plan", "pull", "extract", "train", "evaluate", "promote"):
        given = {
            role: told[step] for role, step in (("dataset", "pull"), ("model", "train"), ("verdict", "evaluate")) if step in told
        }
        operator = operators(base, "s3://tests/raw/*.csv", **given)[name]
        told[name], _ = task.run(operator)
        told[f"{name} fields"] = {field: str(getattr(operator, field)) for field in operator.template_fields}

    store = Store.open("s3://tests/secrets", s3_client=s3)
    stored = [store.objects.get(info.key).data for info in store.objects.list("")]
    printed = capfd.readouterr()
    everything = [json.dumps(told), json.dumps(task.state.values), caplog.text, printed.out, printed.err]
    assert len(stored) > 10
    assert any(b"fine_tune" in text for text in kept)
    for secret in (seaweedfs.secret_key, seaweedfs.access_key):
        assert not [text for text in everything if secret in text]
        assert not [data for data in (*stored, *kept) if secret.encode() in data]


@pytest.mark.promise(25)
@pytest.mark.integration
@pytest.mark.parametrize("name", ["plan", "pull", "extract", "train", "evaluate", "promote"])
@pytest.mark.parametrize("wrong", ["login", "password"])
def test_wrong_credentials_are_one_line_without_the_key_in_every_operator(
    connect, seaweedfs, tmp_path, caplog, capfd, name, wrong
):
    caplog.set_level(logging.DEBUG, logger="transfer_learning")
    good = {"login": seaweedfs.access_key, "password": seaweedfs.secret_key}
    connect("secrets-wrong", **good | {wrong: CANARY})
    operator = operators("s3://tests/base", "s3://tests/raw/*.csv")[name]

    with pytest.raises(AirflowException) as caught:
        Task().run(operator)

    line, printed = str(caught.value), capfd.readouterr()
    below = caught.value.__traceback__.tb_next  # without this function, whose own variables hold the keys
    trace = "".join(traceback.TracebackException(type(caught.value), caught.value, below, capture_locals=True).format())
    assert line.startswith("ACCESS_DENIED s3://tests/")
    assert "\n" not in line
    for secret in (CANARY, seaweedfs.secret_key):
        assert secret not in line + trace + caplog.text + printed.out + printed.err


@pytest.mark.promise(25)
def test_a_driver_that_repeats_its_address_does_not_repeat_the_password(monkeypatch, connect_warehouse):
    connect_warehouse(password=CANARY)

    def refuse(self):
        raise sqlite3.OperationalError(f"cannot open db://ada:{CANARY}@host or db://ada:canary%2F9f31%2Bsecret%3D%3D@host")

    monkeypatch.setattr("airflow.providers.sqlite.hooks.sqlite.SqliteHook.get_conn", refuse)

    with pytest.raises(Exception, match="OperationalError") as caught:
        list(sql.stream_batches("warehouse", "SELECT 1"))

    trace = "".join(traceback.format_exception(caught.value))
    assert str(caught.value) == "SQL sql://warehouse OperationalError: cannot open db://ada:***@host or db://ada:***@host"
    assert CANARY not in trace.replace("raise sqlite3.OperationalError", "")


@pytest.fixture
def connect_warehouse(monkeypatch, tmp_path):
    def define(**fields):
        connection = {"conn_type": "sqlite", "host": str(tmp_path / "news.db")} | fields
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))

    return define
