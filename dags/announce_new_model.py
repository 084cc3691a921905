"""Say what changed when another version of the headline model goes live.

Purpose: shows how to act on a promotion. It is scheduled on the model's asset, whose events come from the promote task of
retrain_text_classifier and from nothing else: a refused candidate or an unchanged night starts no run.

Expected: one run for each promotion; its log names the version, the one before, and each rule of the gate, as the promotion's
event tells them. Started by hand, it tells of the live version.
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
    def announce(triggering_asset_events=None) -> list[int]:
        """Log what stands behind each version that went live, and return their numbers."""
        events = [event.extra for events in triggering_asset_events.values() for event in events]
        promotions = sorted((extra for extra in events if "generation" in extra), key=lambda extra: extra["generation"])
        if not promotions:  # started by hand: tell of the live version
            champion = ModelStoreHook().get_conn().aliases.read(MODEL)
            if champion is None:
                raise ValueError(f"{MODEL} has no champion yet: run retrain_text_classifier first")
            promotions = [{"version": champion.version, "champion_before": champion.previous, "sentences": [champion.reason]}]
        for news in promotions:
            log.info("%s: version %d went live, before it %s", MODEL, news["version"], news["champion_before"] or "none")
            for sentence in news["sentences"]:
                log.info("  %s", sentence)
        return [news["version"] for news in promotions]

    announce()
