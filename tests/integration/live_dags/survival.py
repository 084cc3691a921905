"""A training that the live tests disturb, the promotion of what it published, and a DAG that waits for the promotion."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param, task

from airflow_transfer_learning.assets import model_asset
from airflow_transfer_learning.operators import EvaluateOperator, FineTuneOperator, PromoteOperator

MODEL = "news"
SPEC = {"epochs": "{{ params.epochs }}", "batch_size": 8, "backbone_lr": 1e-4, "checkpoint_seconds": 1.0, "precision": "fp32"}
SHARED = {"store_conn_id": "{{ params.store }}", "retries": 2, "retry_delay": timedelta(seconds=1)}
DATASET = "{{ params.dataset }}"
PARAMS = {
    "store": Param("", type="string"),
    "dataset": Param({}, type="object"),
    "base": Param("", type="string"),
    "epochs": Param(1, type="integer"),
    "version": Param({}, type="object"),
}

with DAG("survive", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), params=PARAMS):
    FineTuneOperator(task_id="fine_tune", spec=SPEC, dataset=DATASET, model=MODEL, base="{{ params.base }}", **SHARED)

with DAG("go_live", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), params=PARAMS):
    verdict = EvaluateOperator(task_id="evaluate", spec={}, candidate="{{ params.version }}", dataset=DATASET, **SHARED)
    PromoteOperator(task_id="promote", verdict=verdict.output, outlets=[model_asset(MODEL)], **SHARED)

with DAG("consume", schedule=[model_asset(MODEL)], start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False):

    @task
    def tell(triggering_asset_events: object = None) -> int:
        """Return the version that the event names."""
        (events,) = triggering_asset_events.values()
        return events[0].extra["version"]

    tell()
