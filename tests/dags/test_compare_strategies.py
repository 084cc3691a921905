"""The shipped DAG that compares strategies, on tiny data: without reading first, and with it."""

import json
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
    """Two strategies, each with two numbers of labels."""
    return run_dag(DAG, datetime(2026, 3, 1, 6, tzinfo=UTC), **form, strategies=["linear_probe", "from_scratch"], labels=[40, 8])


@pytest.fixture(scope="module")
def second(run_dag, store, form, run):
    """A probe of a model that has read, beside one that has not."""
    day = datetime(2026, 3, 2, 6, tzinfo=UTC)
    return run_dag(DAG, day, **form, strategies=["linear_probe", "read_then_probe"], labels=[8])


def test_every_strategy_learns_from_every_number_of_labels_and_nothing_is_promoted(run, store):
    assert run.state == "success"
    assert run.tasks["pretrain"] == "skipped"
    specs = [store.models.manifest(MODEL, version)["facts"]["spec"] for version in range(1, 5)]
    assert {(spec["init_from"], spec["strategy"], spec["train_rows"], spec["seed"]) for spec in specs} == {
        (start, strategy, labels, 0) for start, strategy in (("base", "linear_probe"), ("scratch", "full")) for labels in (8, 40)
    }
    assert store.aliases.read(MODEL, "champion") is None


def test_the_comparison_has_a_curve_for_each_strategy_and_each_baseline(run, store):
    comparison = run.results["compare"]
    curves = {(row["method"], row["train_rows"]): row for row in comparison["rows"]}

    methods = ("linear_probe", "full from scratch", "TF-IDF + logistic regression", "majority class")
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


def test_a_strategy_that_reads_first_starts_from_the_model_that_has_read(run, second, store):
    assert second.state == "success"
    assert second.tasks["pretrain"] == "success"
    rows = {row["method"]: row for row in second.results["compare"]["rows"]}
    assert {f"linear_probe on {LANGUAGE}@1", "linear_probe"} < set(rows)
    bases = [manifest["facts"]["base"]["uri"] for manifest in store.models.versions(MODEL)]
    assert bases.count(f"model://{LANGUAGE}@1") == 1


def test_what_was_trained_by_an_earlier_run_is_found(run, second, store):
    assert len(store.models.versions(MODEL)) == 4 + 1

    body = json.loads(store.objects.get(f"models/{MODEL}/comparisons/{second.results['compare']['digest']}/comparison.json").data)
    assert len(body["versions"]) == 2


def test_more_labels_than_there_are_end_the_run_before_any_training(run_dag, second, store, form):
    day = datetime(2026, 3, 3, 6, tzinfo=UTC)

    failed = run_dag(DAG, day, **form, strategies=["linear_probe"], labels=[8, 81])

    assert failed.tasks["list_trainings"] == "failed"
    assert len(store.models.versions(MODEL)) == 4 + 1
