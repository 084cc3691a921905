"""The Airflow plugin, registered once by the entry point ``airflow.plugins``."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class TransferLearningPlugin(AirflowPlugin):
    """What this package adds to Airflow beside its operators."""

    name = "transfer_learning"
