"""The config section ``[transfer_learning]``."""

from pathlib import Path

import pytest

from airflow_transfer_learning.operators import training_task_args
from airflow_transfer_learning.settings import deployment, executors_are_local
from transfer_learning.errors import BadInput


def test_options_come_from_airflows_configuration(monkeypatch):
    monkeypatch.setenv("AIRFLOW__TRANSFER_LEARNING__CACHE_FOLDER", "/somewhere/cache")
    monkeypatch.setenv("AIRFLOW__TRANSFER_LEARNING__CACHE_SIZE_GB", "1.5")
    monkeypatch.setenv("AIRFLOW__TRANSFER_LEARNING__PYTHON", "/opt/python")
    monkeypatch.setenv("AIRFLOW__TRANSFER_LEARNING__LEASE_SECONDS", "300")

    found = deployment()

    assert (found.cache_folder, found.cache_bytes, found.python) == (Path("/somewhere/cache"), 1_500_000_000, "/opt/python")
    assert found.lease_seconds == 300


@pytest.mark.parametrize("seconds", ["soon", "0", "1", "inf", "nan"])
def test_an_impossible_lease_is_one_clear_line(monkeypatch, seconds):
    monkeypatch.setenv("AIRFLOW__TRANSFER_LEARNING__LEASE_SECONDS", seconds)

    with pytest.raises(BadInput, match=r"^BAD_CONFIG \[transfer_learning\] lease_seconds must be a number above 1, found"):
        deployment()


@pytest.mark.parametrize("size", ["none", "-1", "nan"])
def test_an_impossible_cache_size_is_one_clear_line(monkeypatch, size):
    monkeypatch.setenv("AIRFLOW__TRANSFER_LEARNING__CACHE_SIZE_GB", size)

    with pytest.raises(BadInput, match=r"^BAD_CONFIG \[transfer_learning\] cache_size_gb must be a number above 0"):
        deployment()


@pytest.mark.parametrize(
    ("executors", "local"),
    [
        ("LocalExecutor", True),
        ("airflow.executors.local_executor.LocalExecutor", True),
        ("LocalExecutor,CeleryExecutor", False),
        ("LocalExecutor,gpu:my.company.GpuExecutor", False),
        ("LocalExecutor;team1=CeleryExecutor", False),
        ("mine:airflow.executors.local_executor.LocalExecutor", True),
    ],
)
def test_a_folder_is_shared_only_where_every_executor_is_local(monkeypatch, executors, local):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executors)

    assert executors_are_local() is local


def test_training_tasks_name_an_executor_only_where_one_is_configured(monkeypatch):
    without = training_task_args()
    monkeypatch.setenv("AIRFLOW__TRANSFER_LEARNING__EXECUTOR", "CeleryExecutor")

    assert "executor" not in without
    assert training_task_args()["executor"] == "CeleryExecutor"
    assert (without["queue"], without["pool"]) == ("gpu", "default_pool")
