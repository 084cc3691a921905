"""Where training tasks run, for DAG files."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_transfer_learning.settings import deployment


def training_task_args() -> dict[str, Any]:
    """Return queue, pool, executor and retries of training tasks, from the config section ``[transfer_learning]``.

    Spread it into the operator, or into ``partial(...)``: what an operator sets for itself is lost when it is mapped.
    """
    settings = deployment()
    return {
        "queue": settings.queue,
        "pool": settings.pool,
        # An executor that the environment does not list is an import error of the DAG, so none is named unless configured.
        **({"executor": settings.executor} if settings.executor else {}),
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=30),
    }
