"""The shipped DAG that follows a promotion tells of that promotion, and of the live version when it is started by hand."""

from datetime import UTC, datetime, timedelta

import pytest

DAG = "announce_new_model"
MODEL = "bbc-headlines"
DAY = datetime(2026, 4, 1, 6, tzinfo=UTC)

EVENT = {
    "model": MODEL,
    "version": 1,
    "generation": 1,
    "champion_before": None,
    "sentences": ["Accuracy 0.8 reaches the floor.", "No slice lost."],
}


@pytest.fixture(scope="module")
def champion(store, tmp_path_factory):
    """Two versions, promoted by hand one after the other, and never evaluated."""
    for number in (1, 2):
        folder = tmp_path_factory.mktemp("model")
        (folder / "config.json").write_text(f'{{"number": {number}}}')
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        key = f"{number:064x}"
        ref, _ = store.models.publish(name=MODEL, folder=folder, publish_id=key, fingerprint=key, facts={"as_of": None})
        store.aliases.promote(
            MODEL,
            ref.version,
            promote_id=key,
            actor="ada",
            reason=f"drill {number}",
            expected_generation=number - 1 or None,
            as_of=None,
        )
    return store.aliases.read(MODEL)


def test_it_tells_of_the_promotion_that_started_it_not_of_todays_champion(run_dag, champion, caplog):
    with caplog.at_level("INFO"):
        run = run_dag(DAG, DAY, events=[EVENT])

    assert (champion.version, run.results["announce"]) == (2, [1])
    assert "bbc-headlines: version 1 went live, before it none" in caplog.text
    for sentence in EVENT["sentences"]:
        assert sentence in caplog.text


@pytest.mark.parametrize("turn", [1, -1])
def test_promotions_that_came_together_are_all_told_in_their_order(run_dag, champion, turn):
    events = [EVENT, EVENT | {"version": 2, "generation": 2, "champion_before": 1}]

    assert run_dag(DAG, DAY + timedelta(days=1), events=events[::turn]).results["announce"] == [1, 2]


def test_started_by_hand_it_tells_of_the_live_version_even_without_a_verdict(run_dag, champion, caplog):
    with caplog.at_level("INFO"):
        run = run_dag(DAG, DAY + timedelta(days=2))

    assert (run.state, run.results["announce"]) == ("success", [2])
    assert "bbc-headlines: version 2 went live, before it 1" in caplog.text
    assert "drill 2" in caplog.text


def test_an_event_that_no_promotion_made_is_like_a_start_by_hand(run_dag, champion):
    assert run_dag(DAG, DAY + timedelta(days=3), events=[{"from_rest_api": True}]).results["announce"] == [2]
