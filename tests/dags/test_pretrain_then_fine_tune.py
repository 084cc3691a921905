"""The shipped DAG that reads before it learns, on tiny data."""

import json
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from tiny_pipeline import headlines, write_csv
from transfer_learning.refs import DatasetRef

DAG = "pretrain_then_fine_tune"
MODEL, LANGUAGE = "bbc-headlines-read", "bbc-language"


def with_bodies(rows, seed):
    """Give each headline an article of its own topic."""
    stories = headlines(len(rows), seed=seed)
    return [row | {"body": f"{row['headline']} {story['headline']} " * 3} for row, story in zip(rows, stories, strict=True)]


@pytest.fixture(scope="module")
def run(run_dag, store, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    test_rows = with_bodies(headlines(120, seed=99, first_id=9000), seed=98)
    golden = write_csv(folder / "test" / "golden.csv", test_rows)
    rows = [row if number < 40 else row | {"topic": ""} for number, row in enumerate(with_bodies(headlines(80, seed=1), seed=2))]
    # Another headline over the article of a test row.
    shared = {"id": "shared", "headline": "bank cup for oil team", "topic": "", "body": test_rows[0]["body"]}
    train = write_csv(folder / "train" / "labelled.csv", [*rows, shared])
    form = {"train_source": train, "test_source": golden, "base": base, "block_length": 24, "reading_epochs": 2, "seed": 7}
    return run_dag(DAG, datetime(2026, 3, 1, 6, tzinfo=UTC), **form)


def test_it_reads_learns_evaluates_and_promotes(run, store):
    assert set(run.tasks.values()) == {"success"}
    assert run.results["evaluate"]["decision"] == "first"
    assert store.aliases.read(MODEL, "champion").version == 1


def test_the_classifier_starts_from_the_model_that_has_read(run, store):
    manifest = store.models.manifest(MODEL, 1)

    assert manifest["facts"]["base"]["uri"] == f"model://{LANGUAGE}@1"
    assert store.models.manifest(LANGUAGE, 1)["facts"]["metrics"]["documents"] == 80


def test_neither_has_seen_a_test_row(run, store, tmp_path):
    dataset = DatasetRef.from_dict(run.results["pull"])
    store.datasets.fetch(dataset.name, dataset.digest, destination=tmp_path / "data", splits=("test",))
    test = {key for path in (tmp_path / "data" / "test").iterdir() for key in pq.read_table(path)["_row_key"].to_pylist()}
    ledgers = store.models.fetch_ledger(MODEL, 1, tmp_path / "ledger")
    seen = {key for path in ledgers for key in pq.read_table(path)["row_key"].to_pylist()}

    assert len(ledgers) == 2
    assert (len(seen), len(test)) == (80, 120)
    assert not seen & test


def test_a_training_row_that_shares_its_article_with_a_test_row_is_left_out(run, store):
    dataset = DatasetRef.from_dict(run.results["pull"])
    manifest = store.datasets.manifest(dataset.name, dataset.digest)

    assert manifest["dropped"]["test_wins"] == 1
    assert manifest["splits"] == {"train": 40, "validation": 0, "test": 120, "unlabelled": 40}


@pytest.mark.parametrize("model", [LANGUAGE, MODEL])
def test_the_seed_of_the_form_reaches_both_trainings(run, store, tmp_path, model):
    folder = store.models.fetch(model, 1, tmp_path / "model")

    assert json.loads((folder / "passport.json").read_text(encoding="utf-8"))["settings"]["seed"] == 7


def test_the_plan_says_what_is_read(run):
    assert (
        "Pretrain the base model with the objective 'masked_lm' on the text of the training rows."
        in run.results["plan"]["summary"]
    )
