"""The shipped DAG, on tiny data: day after day, and when something is wrong."""

from datetime import UTC, datetime, timedelta

import pytest

from tiny_pipeline import headlines, write_csv

DAG = "retrain_text_classifier"
MODEL = "bbc-headlines"
DAY_1 = datetime(2026, 3, 1, 6, tzinfo=UTC)
DAY_2, DAY_3 = DAY_1 + timedelta(days=1), DAY_1 + timedelta(days=2)

TRAINED = {"plan": "success", "pull": "success", "fine_tune": "success", "evaluate": "success", "promote": "success"}
NOT_PROMOTED = TRAINED | {"promote": "skipped"}


@pytest.fixture
def form(tmp_path, base):
    """What a user types into the form, with the training rows of a day."""
    golden = write_csv(tmp_path / "test" / "golden.csv", headlines(120, seed=99, first_id=9000))

    def fill(rows, **changes):
        train = write_csv(tmp_path / "train" / "labelled.csv", rows)
        quick = {"epochs": 8, "backbone_lr": 0.005}
        return {"train_source": train, "test_source": golden, "base": base} | quick | changes

    return fill


def test_the_first_model_is_trained_evaluated_and_promoted(run_dag, store, form):
    day = run_dag(DAG, DAY_1, **form(headlines(60, seed=1)))

    assert day.tasks == TRAINED
    assert day.results["evaluate"]["decision"] == "first"
    assert day.results["evaluate"]["metrics"]["accuracy"] > 0.9
    assert store.aliases.read(MODEL).version == day.results["promote"]["version"] == 1
    assert store.models.manifest(MODEL, 1)["facts"]["dataset"]["splits"]["test"] == 120


def test_an_unchanged_night_trains_nothing_and_promotes_nothing(run_dag, store, form):
    rows = headlines(60, seed=1)
    run_dag(DAG, DAY_1, **form(rows))

    day = run_dag(DAG, DAY_2, **form(rows[::-1]))

    assert day.tasks == NOT_PROMOTED
    assert day.results["evaluate"]["decision"] == "unchanged"
    assert len(store.models.versions(MODEL)) == 1
    assert len(store.evaluations.read(MODEL, 1)) == 1
    assert store.aliases.read(MODEL).generation == 1


def test_more_labels_make_a_second_version_that_is_compared_with_the_first(run_dag, store, form):
    rows = headlines(60, seed=1)
    run_dag(DAG, DAY_1, **form(rows))

    day = run_dag(DAG, DAY_2, **form(rows + headlines(60, seed=2, first_id=100)))

    verdict = store.evaluations.read(MODEL, 2)[-1]
    assert (verdict["champion_version"], verdict["champion_generation"]) == (1, 1)
    assert day.results["evaluate"]["decision"] in ("passed", "inconclusive")
    assert day.tasks["promote"] == ("success" if verdict["passed"] else "skipped")


def test_a_worse_candidate_is_refused_and_the_run_stays_green(run_dag, store, form):
    run_dag(DAG, DAY_1, **form(headlines(60, seed=1)))

    day = run_dag(DAG, DAY_2, **form(headlines(60, seed=3, first_id=500, noise=0.9)))

    assert (day.state, day.tasks) == ("success", NOT_PROMOTED)
    assert day.results["evaluate"]["decision"] == "refused"
    assert "promote" not in day.results
    assert store.evaluations.read(MODEL, 2)[-1]["passed"] is False
    assert store.aliases.read(MODEL).version == 1


def test_a_refused_candidate_is_promoted_with_a_recorded_reason(run_dag, store, form):
    run_dag(DAG, DAY_1, **form(headlines(60, seed=1)))
    worse = form(headlines(60, seed=3, first_id=500, noise=0.9), override_reason="a drill")

    day = run_dag(DAG, DAY_2, **worse)

    assert day.tasks == TRAINED
    assert store.aliases.read(MODEL).version == 2
    assert "a drill" in store.aliases.read(MODEL).reason


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"strategy": "linear_probe"}, "BAD_SETTING a linear_probe trains no backbone"),
        ({"unfreeze_blocks": 2}, "BAD_SETTING unfreeze_blocks belongs to strategy"),
        ({"epoch": 3}, "UNKNOWN_PARAM this DAG has no param 'epoch'; did you mean 'epochs'?"),
        ({"base": "file:///nowhere"}, "NO_BASE"),
    ],
)
def test_a_wrong_form_ends_in_the_plan_with_one_line(run_dag, store, form, caplog, capfd, changes, line):
    day = run_dag(DAG, DAY_1, **form(headlines(10, seed=1), **changes))

    assert day.tasks == dict.fromkeys(TRAINED, "upstream_failed") | {"plan": "failed"}
    assert line in caplog.text + capfd.readouterr().out
    assert store.models.names() == []


def test_the_announcement_names_the_live_version_and_its_rules(run_dag, store, form, capfd):
    run_dag(DAG, DAY_1, **form(headlines(60, seed=1)))
    capfd.readouterr()

    announced = run_dag("announce_new_model", DAY_2)

    assert announced.results["announce"] == 1
    printed = capfd.readouterr().out
    assert "bbc-headlines: version 1 is live, before it none" in printed
    assert store.evaluations.read(MODEL, 1)[-1]["sentences"][0] in printed
