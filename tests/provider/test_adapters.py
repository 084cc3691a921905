"""Versions that are adapters alone, through real child processes: evaluated, gone on from, and never left without their base."""

import shutil

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import FeatureExtractOperator, PromoteOperator
from tiny_pipeline import headlines
from training_pipeline import Pipeline
from transfer_learning.store.retention import prune

LORA = {"strategy": "lora", "epochs": 8, "backbone_lr": 0.01, "head_lr": 0.01}
ALONE = LORA | {"lora_merge": False}


class Adapters(Pipeline):
    """What its operators return."""

    def __init__(self, folder):
        super().__init__(folder, headlines(160, seed=1))

    def fine_tune(self, spec, **options):
        return Task().run(super().fine_tune(spec=spec, **options))[0]

    def evaluate(self, candidate):
        return Task().run(super().evaluate(candidate))[0]


class Live(Adapters):
    """Adapters alone are the live version; the same training merged is another one."""

    def __init__(self, folder):
        super().__init__(folder)
        self.adapters, self.merged = self.fine_tune(ALONE), self.fine_tune(LORA)
        self.verdict = self.evaluate(self.adapters)
        Task().run(PromoteOperator(task_id="promote", verdict=self.verdict))


@pytest.fixture(scope="module")
def store(shared_store):
    return shared_store


@pytest.fixture(scope="module")
def pipeline(store, tmp_path_factory):
    return Live(tmp_path_factory.mktemp("pipeline"))


def test_a_version_of_adapters_alone_is_small_and_names_its_base(pipeline, store):
    alone, merged = (store.models.manifest("news", ref["version"]) for ref in (pipeline.adapters, pipeline.merged))

    sizes = {file["path"]: file["bytes"] for file in alone["files"]}
    whole = sum(file["bytes"] for file in merged["files"] if file["path"].endswith(".safetensors"))
    assert set(sizes) == {
        *("README.md", "passport.json", "tokenizer.json", "tokenizer_config.json"),
        *("adapter_config.json", "adapter_model.safetensors"),
    }
    assert alone["bytes_uploaded"] < whole
    assert sizes["adapter_model.safetensors"] < whole / 4
    assert alone["facts"]["base"] == merged["facts"]["base"]


def test_they_are_judged_as_the_merged_model_is(pipeline, store):
    verdict = pipeline.evaluate(pipeline.merged)

    assert pipeline.verdict["metrics"]["accuracy"] > 0.8
    assert verdict["champion"] == pipeline.adapters["version"]
    assert verdict["metrics"]["champion_accuracy"] == verdict["metrics"]["accuracy"] == pipeline.verdict["metrics"]["accuracy"]
    (stored,) = store.evaluations.read("news", pipeline.merged["version"])
    assert stored["mcnemar"]["p_value"] == 1


def test_training_goes_on_from_them(pipeline, store):
    version = pipeline.adapters["version"]
    spec = {"init_from": "champion", "epochs": 1}

    full, adapters = pipeline.fine_tune(spec), pipeline.fine_tune(ALONE | spec)

    for found in (full, adapters):
        manifest = store.models.manifest("news", found["version"])
        assert (manifest["facts"]["base"]["uri"], manifest["parents"]) == (f"model://news@{version}", [version])
    assert pipeline.evaluate(adapters)["metrics"]["accuracy"] > 0.8


def test_features_come_from_the_merged_model(pipeline, store):
    named = {"task_id": "extract", "spec": {}, "dataset": pipeline.dataset}

    features, _ = Task().run(FeatureExtractOperator(**named, base=f"model://news@{pipeline.adapters['version']}"))
    plain, _ = Task().run(FeatureExtractOperator(**named, base=pipeline.base))

    assert features["rows"] == plain["rows"] > 0
    assert features["backbone"] != plain["backbone"]


def test_their_base_is_not_pruned_under_them(pipeline, store):
    version = pipeline.merged["version"]
    adapters = pipeline.fine_tune(ALONE, model="other", base=f"model://news@{version}")
    pipeline.fine_tune(LORA | {"epochs": 1})

    assert version not in [item.version for item in prune(store.objects, "news", keep=1, actor="ada")]

    assert pipeline.evaluate(adapters)["decision"] == "first"


def test_a_base_that_is_another_or_gone_is_one_clear_line(store, tmp_path):
    pipeline = Adapters(tmp_path)
    adapters = pipeline.fine_tune(ALONE, model="lost")

    (tmp_path / "base" / "vocab.txt").write_text("more")
    with pytest.raises(
        AirflowFailException, match=r"^BASE_CHANGED model://lost@1 is adapters alone, and the base that they were"
    ):
        pipeline.evaluate(adapters)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(AirflowFailException, match=r"^NO_BASE model://lost@1 is adapters alone, and the base .* no such folder"):
        pipeline.evaluate(adapters)
