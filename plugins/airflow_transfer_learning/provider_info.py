"""What Airflow shows of this provider: its modules, its connection type and its config section."""

from __future__ import annotations

from typing import Any

OPTIONS: dict[str, tuple[str, str, str, str]] = {
    # name: (type, default, example, description)
    "queue": ("string", "gpu", "gpu-a100", "Queue of the training tasks (pretrain, extract features, fine-tune and evaluate)."),
    "pool": (
        "string",
        "default_pool",
        "gpu",
        "Pool of the training tasks, with as many slots as there are GPUs. It must exist: tasks of a missing pool wait for ever. "
        "A task takes the first GPU that its worker sees: where a machine has several, start one worker for each, with a "
        "CUDA_VISIBLE_DEVICES of its own.",
    ),
    "executor": (
        "string",
        "",
        "CeleryExecutor",
        "Executor of the training tasks, one of [core] executor. Empty is Airflow's default executor.",
    ),
    "cache_folder": (
        "string",
        "",
        "/var/cache/transfer_learning",
        "Folder on each worker for downloads and running jobs. Empty is transfer_learning/cache below AIRFLOW_HOME.",
    ),
    "cache_size_gb": ("float", "20", "200", "Size, GB, above which the least recently used downloads are dropped."),
    "python": (
        "string",
        "",
        "/opt/training/bin/python",
        "Interpreter that runs the jobs, so that a worker's Airflow environment needs no torch. Empty is the worker's own.",
    ),
    "deployment": (
        "string",
        "default",
        "production-eu",
        "Name of this Airflow deployment. Give every deployment that shares a store a name of its own.",
    ),
    "lease_seconds": (
        "float",
        "60",
        "300",
        "How long, s, a retry waits for the sign of life of a killed worker before it takes the training over. A worker stops "
        "its training after two thirds of this without an answer from the store.",
    ),
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, as ``airflow/provider_info.schema.json`` wants it."""
    operators = ("plan", "pull_dataset", "rank", "pretrain", "feature_extract", "fine_tune", "evaluate", "compare", "promote")
    return {
        "package-name": "airflow-provider-transfer-learning",
        "name": "Transfer learning",
        "description": "Transfer learning as scheduled, recoverable, reviewable pipelines: from raw rows to a promoted model.",
        "integrations": [{"integration-name": "Transfer learning", "tags": ["software"]}],
        "operators": [
            {
                "integration-name": "Transfer learning",
                "python-modules": [f"airflow_transfer_learning.operators.{name}" for name in operators],
            }
        ],
        "hooks": [
            {
                "integration-name": "Transfer learning",
                "python-modules": ["airflow_transfer_learning.hooks.model_store"],
            }
        ],
        "connection-types": [_connection_type()],
        "config": {
            "transfer_learning": {
                "description": "How and where transfer learning jobs run in this deployment.",
                "options": {
                    name: {
                        "description": description,
                        "version_added": "0.1.0",
                        "type": kind,
                        "example": example,
                        "default": default,
                    }
                    for name, (kind, default, example, description) in OPTIONS.items()
                },
            }
        },
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "transfer_learning",
        "hook-class-name": "airflow_transfer_learning.hooks.model_store.ModelStoreHook",
        "hook-name": "Transfer learning store",
        "conn-fields": {
            "root": {
                "label": "Root",
                "description": "Everything is stored below this URI: s3://bucket/prefix or file:///folder.",
                "schema": {"type": ["string"]},
            },
            "aws_conn_id": {
                "label": "AWS connection",
                "description": "Connection with the credentials, region and endpoint of an s3:// root.",
                "schema": {"type": ["string", "null"], "default": "aws_default"},
            },
        },
        "ui-field-behaviour": {
            "hidden-fields": ["host", "schema", "login", "password", "port", "extra"],
            "relabeling": {},
            "placeholders": {"root": "s3://my-bucket/transfer-learning"},
        },
    }
