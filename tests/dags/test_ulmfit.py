"""The shipped DAG that goes from general text to the target's text to its labels, on tiny data."""

import json
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from tiny_pipeline import headlines, write_csv
from transfer_learning.refs import DatasetRef

DAG = "ulmfit"
MODEL, GENERAL, TARGET = "bbc-headlines-ulmfit", "general-left-to-right", "bbc-left-to-right"
SMALL = {"layers": 1, "hidden_size": 16, "block_length": 24, "general_epochs": 1, "target_epochs": 1, "epochs": 2}


def with_bodies(rows, seed):
    """Give each headline an article of its own topic."""
    stories = headlines(len(rows), seed=seed)
    return [row | {"body": f"{row['headline']} {story['headline']} " * 3} for row, story in zip(rows, stories, strict=True)]


@pytest.fixture(scope="module")
def run(run_dag, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    golden = write_csv(folder / "test" / "golden.csv", with_bodies(headlines(120, seed=99, first_id=9000), seed=98))
    rows = [row if number < 40 else row | {"topic": ""} for number, row in enumerate(with_bodies(headlines(80, seed=1), seed=2))]
    train = write_csv(folder / "train" / "labelled.csv", rows)
    letters = [{"text": f"{row['headline']} and {number}"} for number, row in enumerate(headlines(90, seed=5))]
    general = write_csv(folder / "general" / "letters.csv", letters)
    form = {"general_source": general, "train_source": train, "test_source": golden, **SMALL}
    return run_dag(DAG, datetime(2026, 3, 1, 6, tzinfo=UTC), **form)


def test_it_reads_twice_learns_evaluates_and_promotes(run, store):
    assert set(run.tasks.values()) == {"success"}
    assert run.results["evaluate"]["decision"] == "first"
    assert store.aliases.read(MODEL, "champion").version == 1


def test_each_model_starts_from_the_one_before(run, store):
    general, target, classifier = (store.models.manifest(name, 1)["facts"] for name in (GENERAL, TARGET, MODEL))

    assert general["base"] == {}
    assert target["base"]["uri"] == f"model://{GENERAL}@1"
    assert classifier["base"]["uri"] == f"model://{TARGET}@1"
    assert (general["metrics"]["documents"], target["metrics"]["documents"]) == (90, 80)
    assert general["metrics"]["vocabulary"] == target["metrics"]["vocabulary"]


def test_the_three_techniques_train_the_classifier(run, store, tmp_path):
    folder = store.models.fetch(MODEL, 1, tmp_path / "model")

    passport = json.loads((folder / "passport.json").read_text())

    assert passport["heads"][0]["pooling"] == "concat"
    assert passport["settings"]["strategy"] == "gradual_unfreeze"
    assert (passport["spec"]["layer_decay"], passport["spec"]["schedule"]) == ("discriminative", "slanted_triangular")
    assert passport["metrics"]["unfreezing_epochs"] == 1
    assert passport["metrics"]["fine_tune_epochs"] == 2


def test_none_has_seen_a_test_row(run, store, tmp_path):
    dataset = DatasetRef.from_dict(run.results["pull"])
    store.datasets.fetch(dataset.name, dataset.digest, destination=tmp_path / "data", splits=("test",))
    test = {key for path in (tmp_path / "data" / "test").iterdir() for key in pq.read_table(path)["_content_key"].to_pylist()}
    ledgers = store.models.fetch_ledger(MODEL, 1, tmp_path / "ledger")
    seen = {key for path in ledgers for key in pq.read_table(path)["content_key"].to_pylist()}

    assert len(ledgers) == 3
    assert len(test) > 100
    assert len(seen) > 200
    assert not seen & test


def test_the_plan_says_that_it_starts_from_nothing(run):
    assert "from a model that this run makes from scratch" in run.results["plan"]["summary"]
