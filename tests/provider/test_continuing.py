"""Nights that go on from the model's own version, on new rows alone: replay, the champion's test rows, and nothing twice."""

import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import PromoteOperator
from tiny_pipeline import headlines
from training_pipeline import Pipeline
from transfer_learning.errors import BadInput
from transfer_learning.store.datasets import DatasetStore

QUICK = {"epochs": 8, "backbone_lr": 0.005, "init_from": "latest"}


def without(digest):
    """Fetch every snapshot but one."""
    fetch = DatasetStore.fetch

    def fetch_others(self, name, wanted, **options):
        if wanted == digest:
            raise BadInput("NO_SNAPSHOT", "is gone")
        return fetch(self, name, wanted, **options)

    return fetch_others


class Nights(Pipeline):
    """A first night with its champion, and the rows of a second one."""

    def __init__(self, folder):
        super().__init__(folder, headlines(120, seed=1))
        self.first = self.dataset
        self.champion, _ = Task().run(self.fine_tune(self.first))
        verdict, _ = Task().run(self.evaluate(self.champion, dataset=self.first))
        Task().run(PromoteOperator(task_id="promote", verdict=verdict))
        self.second = self.pull(headlines(40, seed=2, first_id=1000))

    def fine_tune(self, dataset, settings=None, **options):
        return super().fine_tune(dataset=dataset, spec=QUICK | (settings or {}), **options)


@pytest.fixture(scope="module")
def store(shared_store):
    return shared_store


@pytest.fixture(scope="module")
def nights(store, tmp_path_factory):
    return Nights(tmp_path_factory.mktemp("nights"))


def test_a_night_on_new_rows_replays_older_ones_and_shows_what_became_of_the_champions_test_rows(nights, store, tmp_path):
    candidate, _ = Task().run(nights.fine_tune(nights.second, {"replay": 0.5}, replay=nights.first))
    Task().run(nights.evaluate(candidate, dataset=nights.second))

    manifest = store.models.manifest("news", candidate["version"])
    assert manifest["facts"]["base"]["uri"] == "model://news@1"
    assert manifest["facts"]["replay"] == {"name": "news", "digest": nights.first["digest"]}
    own = pq.read_table(store.models.fetch_ledger("news", candidate["version"], tmp_path)[0])
    new = nights.second["splits"]["train"]
    assert 1.8 * new < own.num_rows <= 2 * new  # a text that stands among the older rows is no new one
    (verdict,) = store.evaluations.read("news", candidate["version"])
    assert verdict["test"]["rows"] == nights.second["splits"]["test"]
    (old,) = verdict["slices"]
    assert (old["column"], old["value"], old["rows"]) == ("data", "old", nights.first["splits"]["test"])


def test_rows_of_a_growing_dataset_that_the_version_was_trained_on_are_older_ones(nights, store, tmp_path):
    grown = nights.pull([*headlines(120, seed=1), *headlines(20, seed=4, first_id=2000)])

    candidate, _ = Task().run(nights.fine_tune(grown, {"replay": 0.5}))

    own = pq.read_table(store.models.fetch_ledger("news", candidate["version"], tmp_path)[0])
    assert own.num_rows <= 2 * (grown["splits"]["train"] - nights.first["splits"]["train"]) < grown["splits"]["train"]


@pytest.mark.parametrize("replay", [None, 0.0])
def test_a_night_with_few_new_rows_is_as_slow_as_these_are_few_and_its_card_says_so(nights, store, tmp_path, replay):
    grown = nights.pull([*headlines(120, seed=1), *headlines(20, seed=4, first_id=2000)])

    candidate, _ = Task().run(nights.fine_tune(grown, {"init_from": "champion", "replay": replay, "backbone_lr": None}))

    card = (store.models.fetch("news", candidate["version"], tmp_path / "model") / "README.md").read_text()
    pace = float(card.partition("| pace | ")[2].split()[0])
    new = grown["splits"]["train"] - nights.first["splits"]["train"]
    assert 0.1 <= pace <= new / grown["splits"]["train"] + 0.01  # a text that stands among the older rows is no new one


def test_a_snapshot_that_is_gone_costs_the_slice_and_nothing_else(nights, store, monkeypatch):
    candidate, _ = Task().run(nights.fine_tune(nights.second, {"seed": 1}))
    monkeypatch.setattr("transfer_learning.store.datasets.DatasetStore.fetch", without(nights.first["digest"]))

    Task().run(nights.evaluate(candidate, dataset=nights.second))

    assert store.evaluations.read("news", candidate["version"])[0]["slices"] == []


def test_where_the_version_has_learned_the_same_rows_already_it_is_the_result(nights, store):
    settings = {"seed": 2}
    first, _ = Task().run(nights.fine_tune(nights.second, settings))
    before = list(store.objects.list(""))

    again, _ = Task(run_id="next night").run(nights.fine_tune(nights.second, settings))

    assert again["version"] == first["version"]
    assert list(store.objects.list("")) == before
    other, _ = Task(run_id="more rows").run(nights.fine_tune(nights.first, settings))
    assert other["version"] > first["version"]


def test_a_share_without_older_rows_is_one_clear_line(nights):
    with pytest.raises(AirflowFailException, match="^BAD_SETTING FineTuneSpec.replay is 0.5, and where training starts from the"):
        Task().run(nights.fine_tune(nights.second, {"init_from": "base", "replay": 0.5}))


def test_older_rows_without_a_share_are_one_clear_line(nights):
    with pytest.raises(AirflowFailException, match="^BAD_SETTING replay is a dataset, and FineTuneSpec.replay says no share"):
        Task().run(nights.fine_tune(nights.second, replay=nights.first))
