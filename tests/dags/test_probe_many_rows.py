"""The shipped DAG of a probe on stored features, on tiny data: a day with few labels, and a day that brings more of them."""

from datetime import UTC, datetime, timedelta

import pytest

from tiny_pipeline import headlines, write_csv

DAG = "probe_many_rows"
MODEL = "bbc-headlines-probe"
DAY_1 = datetime(2026, 3, 1, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def days(run_dag, store, base, tmp_path_factory):
    """The same 80 headlines on both days: 40 labelled on the first, all of them on the second."""
    folder = tmp_path_factory.mktemp("data")
    golden = write_csv(folder / "test" / "golden.csv", headlines(120, seed=99, first_id=9000))
    rows = headlines(80, seed=1)
    first = [row if number < 40 else row | {"topic": ""} for number, row in enumerate(rows)]
    lived = []
    for number, labelled in enumerate((first, rows)):
        train = write_csv(folder / "train" / "labelled.csv", labelled)
        form = {"train_source": train, "test_source": golden, "base": base, "classifier": "softmax"}
        run = run_dag(DAG, DAY_1 + timedelta(days=number), **form)
        parts = {info.key for info in store.objects.list("features/cache/")}
        lived.append((run, parts))
    return lived


def test_both_days_train_evaluate_and_decide(days, store):
    for run, _ in days:
        assert {name: run.tasks[name] for name in run.tasks if name != "promote"} == dict.fromkeys(
            ("plan", "pull", "extract", "fine_tune", "evaluate"), "success"
        )
    assert days[0][0].results["evaluate"]["decision"] == "first"
    assert days[0][0].results["evaluate"]["metrics"]["accuracy"] > 0.8
    assert len(store.models.versions(MODEL)) == 2


def test_every_text_is_computed_once_labelled_or_not(days, store):
    (_, first), (_, second) = days
    sets = [info.key.split("/")[2] for info in store.objects.list("features/sets/")]
    rows = [store.features.manifest(digest)["rows"] for digest in sets]

    assert first == second != set()
    assert len(sets) == 4
    texts = {row["headline"] for row in (*headlines(80, seed=1), *headlines(120, seed=99, first_id=9000))}
    assert sum(rows) == 2 * len(texts)


def test_the_training_takes_the_features_of_its_day_in_their_arithmetic(days, store):
    run, _ = days[1]
    facts = store.models.manifest(MODEL, run.results["fine_tune"]["version"])["facts"]
    features = store.features.manifest(run.results["extract"]["digest"])

    assert features["dataset"]["digest"] == facts["dataset"]["digest"]
    assert facts["spec"]["precision"] == features["precision"] != "auto"


def test_the_verdict_is_made_of_stored_features_for_both_models(days, store):
    run, _ = days[1]
    (verdict,) = store.evaluations.read(MODEL, run.results["fine_tune"]["version"])

    rows = verdict["test"]["rows"]
    for who in ("candidate", "champion"):
        assert f"the {who} answered {rows} of {rows} test rows from features that were stored before" in verdict["sentences"]


def test_the_plan_says_whose_features_are_extracted(days):
    summary = days[0][0].results["plan"]["summary"]

    assert "Extract mean features of layer -1 for train, validation, test, unlabelled, for rows that have none yet." in summary
