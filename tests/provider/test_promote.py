"""When the alias moves, when it does not, and what Airflow hears of it."""

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_transfer_learning.assets import model_asset
from airflow_transfer_learning.operators import PromoteOperator
from transfer_learning.errors import BadInput
from transfer_learning.refs import ModelRef, VerdictRef


def verdict(version, decision="passed", generation=None, champion=None, as_of="2026-03-01T00:00:00+00:00"):
    model = ModelRef(name="news", version=version, uri="file:///artifact", publish_id=f"{version:064x}", fingerprint="f")
    return VerdictRef(
        model=model.to_dict(),
        champion=champion,
        champion_generation=generation,
        passed=decision in ("passed", "first"),
        decision=decision,
        sentences=[f"The candidate {decision}."],
        uri="file:///evidence",
        metrics={"accuracy": 0.87},
        as_of=as_of,
    ).to_dict()


def promote(version=1, **options):
    fields = {name: options.pop(name) for name in ("decision", "generation", "champion", "as_of") if name in options}
    return PromoteOperator(
        **{"task_id": "promote", "verdict": verdict(version, **fields), "outlets": [model_asset("news")]} | options
    )


def test_a_passed_candidate_becomes_champion_and_the_event_tells_why(task, store, published):
    published("news", "passed")

    result, context = task.run(promote())
    champion = store.aliases.read("news")

    assert (result["version"], champion.version) == (1, 1)
    assert champion.actor == "airflow dag run-1 triggered by ada"
    assert champion.reason == "The candidate passed."
    assert context["outlet_events"][model_asset("news")].extra == {
        "model": "news",
        "version": 1,
        "champion_before": None,
        "generation": 1,
        "decision": "passed",
        "sentences": ["The candidate passed."],
        "metrics": {"accuracy": 0.87},
        "uri": "file:///evidence",
    }


def test_a_verdict_on_another_publish_of_that_number_moves_nothing(task, store, published):
    published("news", "passed")
    other = verdict(1)
    other["model"]["publish_id"] = "0" * 64

    with pytest.raises(
        AirflowFailException, match="^OTHER_VERSION version 1 of model news is not the one that was published as 0"
    ):
        task.run(promote(verdict=other))

    assert store.aliases.read("news") is None


def test_promoting_twice_moves_once_and_the_event_comes_again(task, store, published):
    """A task killed after the move is retried: its event must still come."""
    published("news", "passed")
    task.run(promote())

    _, context = task.run(promote())

    assert store.aliases.read("news").generation == 1
    assert context["outlet_events"][model_asset("news")].extra["version"] == 1


def test_a_late_duplicate_never_undoes_what_came_after(task, store, published):
    published("news", "passed")
    published("news", "passed")
    task.run(promote())
    task.run_id = "run-2"
    task.run(promote(2, generation=1))
    task.run_id = "run-1"

    with pytest.raises(AirflowSkipException, match="champion has moved on since"):
        task.run(promote())

    assert store.aliases.read("news").version == 2


@pytest.mark.parametrize("decision", ["refused", "inconclusive"])
def test_a_refused_candidate_is_skipped_and_no_event_comes(task, store, published, decision):
    published("news", decision)
    operator = promote(decision=decision)
    context = task.context(operator)
    task.render(operator, context)

    with pytest.raises(AirflowSkipException, match=f"^NOT_PASSED version 1 of news was {decision}: The candidate {decision}."):
        operator.execute(context)

    assert store.aliases.read("news") is None
    assert len(context["outlet_events"]) == 0


def test_a_refused_candidate_fails_where_asked(task, store, published):
    published("news", "refused")

    with pytest.raises(AirflowFailException, match="NOT_PASSED"):
        task.run(promote(decision="refused", on_refused="fail"))


def test_an_override_promotes_and_is_on_record(task, store, published):
    published("news", "refused")
    task.params = {"override_reason": "the test set is wrong"}

    task.run(promote(decision="refused", override_reason="{{ params.override_reason }}"))

    assert store.aliases.read("news").version == 1
    assert store.aliases.read("news").reason == "override of NOT_PASSED: the test set is wrong; The candidate refused."


def test_an_empty_override_of_a_form_overrides_nothing(task, store, published):
    published("news", "refused")
    task.params = {"override_reason": None}

    with pytest.raises(AirflowSkipException, match="NOT_PASSED"):
        task.run(promote(decision="refused", override_reason="{{ params.override_reason }}"))


def test_a_verdict_without_stored_evidence_promotes_nothing(task, store, published):
    published("news")

    with pytest.raises(AirflowSkipException, match="UNEVALUATED"):
        task.run(promote())


def test_a_champion_that_moved_since_the_verdict_stays(task, store, published):
    published("news", "passed")
    published("news", "passed")
    task.run(promote(2))
    task.run_id = "run-2"

    with pytest.raises(AirflowSkipException, match="ALIAS_MOVED"):
        task.run(promote(1))

    assert store.aliases.read("news").version == 2


def test_older_data_than_the_champions_stay_behind(task, store, published):
    published("news", "passed")
    published("news", "passed")
    task.run(promote(2))
    task.run_id = "run-2"

    with pytest.raises(AirflowSkipException, match="OLDER_DATA"):
        task.run(promote(1, generation=1, champion=2, as_of="2026-02-01T00:00:00+00:00"))


def test_an_unchanged_candidate_is_skipped_before_the_store_is_asked(task):
    with pytest.raises(AirflowSkipException, match=r"^The candidate unchanged\.$"):
        task.run(promote(decision="unchanged", store_conn_id="nowhere"))


def test_something_else_than_a_verdict_is_one_clear_line(task, store):
    with pytest.raises(AirflowFailException, match="^WRONG_REF expected a 'verdict' ref, found 'plan'"):
        task.run(promote(verdict={"kind": "plan"}))


def test_a_typo_in_on_refused_is_found_when_the_dag_is_parsed():
    with pytest.raises(BadInput, match="on_refused must be 'skip' or 'fail', found 'failed'"):
        promote(on_refused="failed")


def test_an_asset_has_one_stable_uri_and_a_name_that_the_store_takes():
    assert model_asset("news").uri == "transfer-learning://models/news"
    with pytest.raises(BadInput, match="BAD_NAME"):
        model_asset("../news")
