"""Say what changed when another version of the headline model goes live.

Purpose: shows how to act on a promotion. It is scheduled on the model's asset, whose events come from the promote task of
retrain_text_classifier and from nothing else: a refused candidate or an unchanged night starts no run.

Expected: one run for each promotion; its log names the version, the one before, and each rule of the gate.
"""

import logging
from datetime import UTC, datetime

from airflow.sdk import DAG, task

from airflow_transfer_learning.assets import model_asset
from airflow_transfer_learning.hooks.model_store import ModelStoreHook

MODEL = "bbc-headlines"

log = logging.getLogger(__name__)

with DAG(
    dag_id="announce_new_model",
    doc_md=__doc__,
    schedule=[model_asset(MODEL)],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["transfer-learning"],
):

    @task
    def announce() -> int:
        """Log the verdict behind the live version and return the version."""
        store = ModelStoreHook().get_conn()
        champion = store.aliases.read(MODEL)
        if champion is None:
            raise ValueError(f"{MODEL} has no champion yet: run retrain_text_classifier first")
        verdict = store.evaluations.read(MODEL, champion.version)[-1]
        before = verdict["champion_version"] or "none"
        log.info("%s: version %d is live, before it %s. %s", MODEL, champion.version, before, champion.actor)
        for sentence in verdict["sentences"]:
            log.info("  %s", sentence)
        return champion.version

    announce()
