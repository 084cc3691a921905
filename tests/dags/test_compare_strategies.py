"""The shipped DAG that compares strategies, on tiny data: without reading first, and with it."""

from datetime import UTC, datetime

import pytest

from tiny_pipeline import headlines, write_csv

DAG = "compare_strategies"
MODEL, LANGUAGE = "bbc-headlines-compared", "bbc-language-compared"


@pytest.fixture(scope="module")
def form(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [row | {"body": f"{row['headline']} " * 4} for row in headlines(80, seed=1)]
    golden = [row | {"body": ""} for row in headlines(120, seed=99, first_id=9000)]
    train = write_csv(folder / "train" / "all.csv", rows)
    test = write_csv(folder / "test" / "golden.csv", golden)
    return {"train_source": train, "test_source": test, "base": base, "block_length": 24}


@pytest.fixture(scope="module")
def run(run_dag, store, form):
    """A probe of a model that has read, beside one that has not, with two numbers of labels."""
    day = datetime(2026, 3, 1, 6, tzinfo=UTC)
    return run_dag(DAG, day, **form, strategies=["linear_probe", "read_then_probe"], labels=[40, 8])


def test_every_strategy_learns_from_every_number_of_labels_and_nothing_is_promoted(run, store):
    assert run.state == "success"
    facts = [manifest["facts"] for manifest in store.models.versions(MODEL)]
    found = {(one["base"]["uri"].startswith("model://"), one["spec"]["strategy"], one["spec"]["train_rows"]) for one in facts}
    assert found == {(read, "linear_probe", labels) for read in (False, True) for labels in (8, 40)}
    assert store.aliases.read(MODEL, "champion") is None


def test_the_comparison_has_a_curve_for_each_strategy_and_each_baseline(run, store):
    comparison = run.results["compare"]
    curves = {(row["method"], row["train_rows"]): row for row in comparison["rows"]}

    methods = ("linear_probe", f"linear_probe on {LANGUAGE}@1", "TF-IDF + logistic regression", "majority class")
    assert set(curves) == {(method, labels) for method in methods for labels in (8, 40)}
    assert all(0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 for row in curves.values())
    assert curves["linear_probe", 40]["accuracy"] > 0.8 > curves["majority class", 40]["accuracy"]
    stored = {info.key.rpartition("/")[2] for info in store.objects.list(f"models/{MODEL}/comparisons/{comparison['digest']}/")}
    assert stored == {"comparison.json", "curves.png", "table.md"}
    assert comparison["sentences"][0].startswith("With 8 labels ")


def test_each_verdicts_baselines_learned_from_the_candidates_rows(run, store):
    for version in range(1, 5):
        (verdict,) = store.evaluations.read(MODEL, version)
        labels = store.models.manifest(MODEL, version)["facts"]["spec"]["train_rows"]
        assert verdict["metrics"]["baselines"]["tfidf"]["train_rows"] == labels


def test_a_strategy_that_reads_first_starts_from_the_model_that_has_read(run, store):
    assert run.tasks["pretrain"] == "success"
    bases = [manifest["facts"]["base"]["uri"] for manifest in store.models.versions(MODEL)]
    assert bases.count(f"model://{LANGUAGE}@1") == 2


def test_too_many_labels_end_the_run_before_any_training_and_nothing_is_read_where_no_strategy_asks(run_dag, run, store, form):
    day = datetime(2026, 3, 3, 6, tzinfo=UTC)

    failed = run_dag(DAG, day, **form, strategies=["linear_probe"], labels=[8, 81])

    assert failed.tasks["list_trainings"] == "failed"
    assert failed.tasks["pretrain"] == "skipped"
    assert len(store.models.versions(MODEL)) == 4
