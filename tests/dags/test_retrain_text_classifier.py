"""The shipped DAG, on tiny data: five days of one model's life, and forms that are wrong."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from tiny_pipeline import headlines, write_csv
from transfer_learning.store.moves import Alias

DAG = "retrain_text_classifier"
MODEL = "bbc-headlines"
DAY_1 = datetime(2026, 3, 1, 6, tzinfo=UTC)

TRAINED = {"plan": "success", "pull": "success", "fine_tune": "success", "evaluate": "success", "promote": "success"}
NOT_PROMOTED = TRAINED | {"promote": "skipped"}


@dataclasses.dataclass(frozen=True)
class Day:
    """What a run did, and what the store held after it."""

    state: str
    tasks: dict[str, str]
    results: dict[str, dict]
    versions: int
    champion: Alias


@pytest.fixture(scope="module")
def form(tmp_path_factory, base):
    """What a user types into the form, with the training rows of a day."""
    folder = tmp_path_factory.mktemp("data")
    golden = write_csv(folder / "test" / "golden.csv", headlines(120, seed=99, first_id=9000))

    def fill(rows, **changes):
        train = write_csv(folder / "train" / "labelled.csv", rows)
        quick = {"epochs": 8, "backbone_lr": 0.005, "margin": 0.2}  # 120 test rows settle no smaller margin for sure
        return {"train_source": train, "test_source": golden, "base": base} | quick | changes

    return fill


@pytest.fixture(scope="module")
def days(run_dag, store, form):
    """Five days: a first model, nothing new, more labels, spoilt labels, and the spoilt ones by order."""
    first, spoilt = headlines(60, seed=1), headlines(60, seed=3, first_id=500, noise=0.9)
    forms = [
        lambda: form(first),
        lambda: form(first[::-1]),
        lambda: form(first + headlines(60, seed=2, first_id=100)),
        lambda: form(spoilt),
        lambda: form(spoilt, override_reason="a drill"),
    ]
    lived = []
    for number, fill in enumerate(forms):
        run = run_dag(DAG, DAY_1 + timedelta(days=number), **fill())
        versions = len(store.models.versions(MODEL))
        lived.append(Day(run.state, run.tasks, run.results, versions, store.aliases.read(MODEL)))
    return lived


def test_the_first_model_is_trained_evaluated_and_promoted(days, store):
    day = days[0]

    assert day.tasks == TRAINED
    assert day.results["evaluate"]["decision"] == "first"
    assert day.results["evaluate"]["metrics"]["accuracy"] > 0.9
    assert day.champion.version == day.results["promote"]["version"] == 1
    assert store.models.manifest(MODEL, 1)["facts"]["dataset"]["splits"]["test"] == 120


def test_an_unchanged_night_trains_nothing_and_promotes_nothing(days, store):
    day = days[1]

    assert day.tasks == NOT_PROMOTED
    assert day.results["pull"]["digest"] == days[0].results["pull"]["digest"]
    assert day.results["evaluate"]["decision"] == "unchanged"
    assert day.versions == 1
    assert len(store.evaluations.read(MODEL, 1)) == 1
    assert day.champion == days[0].champion


def test_more_labels_make_a_second_version_that_is_compared_with_the_first(days, store):
    day, verdict = days[2], store.evaluations.read(MODEL, 2)[0]

    assert day.versions == 2
    assert (verdict["champion_version"], verdict["champion_generation"]) == (1, 1)
    assert day.results["evaluate"]["decision"] == "passed"
    assert day.champion.version == 2
    assert verdict["test"]["uses"] == 1


def test_a_worse_candidate_is_refused_and_the_run_stays_green(days, store):
    day = days[3]

    assert (day.state, day.tasks) == ("success", NOT_PROMOTED)
    assert day.results["evaluate"]["decision"] == "refused"
    assert "promote" not in day.results
    assert store.evaluations.read(MODEL, 3)[0]["passed"] is False
    assert day.champion == days[2].champion


def test_a_refused_candidate_is_promoted_with_a_recorded_reason(days):
    day = days[4]

    assert day.tasks == TRAINED
    assert day.versions == 3
    assert day.champion.version == 3
    assert "a drill" in day.champion.reason


def test_the_plan_says_what_each_day_will_do(days):
    first, later = (days[number].results["plan"]["summary"] for number in (0, 2))

    assert "There is no champion yet" in first
    assert "Compare with champion version 1 (generation 1)" in later
    assert "With the last snapshot's 120 test rows an equally good candidate passes a margin of" in later


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"strategy": "linear_probe"}, "BAD_SETTING a linear_probe trains no backbone"),
        ({"epoch": 3}, "UNKNOWN_PARAM this DAG has no param 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_a_wrong_form_ends_in_the_plan_with_one_line(run_dag, days, store, form, capfd, changes, line):
    day = run_dag(DAG, DAY_1 + timedelta(days=30), **form(headlines(10, seed=1), **changes))

    assert day.tasks == dict.fromkeys(TRAINED, "upstream_failed") | {"plan": "failed"}
    assert line in capfd.readouterr().out
    assert len(store.models.versions(MODEL)) == 3
