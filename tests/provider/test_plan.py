"""Everything that can be wrong with a run is said here, in one line, before anything starts."""

import json
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_env import REPOSITORY
from airflow_transfer_learning.operators import PlanOperator
from transfer_learning.refs import PlanRef
from transfer_learning.specs import EvaluateSpec, FeatureSpec, FineTuneSpec, PullSpec, TaskSpec

NEWS = f"{REPOSITORY}/include/samples/*.csv"
PULL = PullSpec(name="news", source=NEWS, task=TaskSpec(text="headline", label="topic"))


@pytest.fixture
def base(tmp_path):
    """A folder with weights: what a plan looks at before it pins a base model."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder.as_uri()


@pytest.fixture
def plan(base):
    """Makes a PlanOperator, complete but for what a test changes."""

    def make(**options):
        complete = {"model": "news", "base": base, "pull": PULL, "fine_tune": FineTuneSpec(), "evaluate": EvaluateSpec()}
        return PlanOperator(**{"task_id": "plan"} | complete | options)

    return make


def refused(task, operator):
    with pytest.raises(AirflowFailException) as caught:
        task.run(operator)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_plan_pins_every_movable_name(task, store, plan, base):
    operator = plan(pull={**PULL.to_dict(), "task": {"time": "published", "text": "headline"}, "window": "P30D"})

    result, _ = task.run(operator)
    pinned = PlanRef.from_dict(json.loads(json.dumps(result)))

    assert pinned.base.startswith(f"{base}#")
    assert pinned.as_of == "2026-03-01T06:00:00+00:00"
    assert pinned.window == {"start": "2026-01-30T06:00:00+00:00", "end": "2026-03-01T06:00:00+00:00"}
    assert (pinned.champion, pinned.champion_generation, pinned.store) == (None, None, store.objects.uri)


def test_planning_twice_gives_the_same_plan(task, store, plan):
    assert task.run(plan())[0] == task.run(plan())[0]


def test_the_form_is_merged_and_handed_on_without_what_was_left_empty(task, store, plan):
    task.params = {"epochs": 5, "seed": None, "label": "2024"}
    overrides = {
        "fine_tune": {"epochs": "{{ params.epochs }}", "seed": "{{ params.seed }}"},
        "pull": {"task": {"label": "{{ params.label }}"}},
    }

    result, _ = task.run(plan(overrides=overrides))

    assert result["overrides"] == {"fine_tune": {"epochs": 5}, "pull": {"task": {"label": "2024"}}}


def test_the_summary_says_what_the_run_will_do(task, store, plan):
    summary = task.run(plan(overrides={"fine_tune": {"epochs": 5}}))[0]["summary"]

    assert "Retrain 'news' from file://" in summary
    assert f"Pull all rows of {NEWS} into dataset 'news'" in summary
    assert "Fine-tune with strategy 'full' and epochs 5" in summary
    assert "There is no champion yet" in summary


@pytest.mark.parametrize(
    ("asked", "warned"), [("hf://org/model@main", True), ("hf://org/model", True), ("hf://org/model@c0ffee", False)]
)
def test_the_summary_warns_of_a_hub_branch_and_says_what_it_was_pinned_to(task, store, plan, monkeypatch, asked, warned):
    class Hub:
        def model_info(self, repository, revision=None, timeout=None):
            return SimpleNamespace(sha="c0ffee")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)

    result, _ = task.run(plan(base=asked))

    assert result["base"] == "hf://org/model@c0ffee"
    assert ("can move: this run is pinned to commit c0ffee" in result["summary"]) is warned


def test_the_summary_says_what_the_known_test_rows_can_settle(task, store, plan, monkeypatch):
    from transfer_learning.store.datasets import DatasetStore

    monkeypatch.setattr(DatasetStore, "latest", lambda self, name: {"splits": {"train": 80, "test": 500}})

    summary = task.run(plan(evaluate=EvaluateSpec(gate={"margin": 0.01})))[0]["summary"]

    assert "With the last snapshot's 500 test rows an equally good candidate passes a margin of 0.015 or more" in summary
    assert "the gate's 0.01 would often end inconclusive" in summary


def test_a_live_model_is_pinned_with_its_generation(task, store, plan, published):
    version = published("news")
    store.aliases.promote(
        "news", version, promote_id="p", actor="ada", reason="first", expected_generation=None, as_of="2026-02-01T00:00:00+00:00"
    )

    result, _ = task.run(plan(base="model://news@champion"))

    assert (result["base"], result["champion"], result["champion_generation"]) == ("model://news@1", 1, 1)
    assert "Compare with champion version 1 (generation 1)" in result["summary"]


@pytest.mark.parametrize(("start", "pinned"), [("champion", "model://news@1"), ("latest", "model://news@2"), ("base", "file://")])
def test_training_may_start_from_the_models_own_live_or_newest_version(task, store, plan, published, start, pinned):
    first = published("news")
    published("news")
    store.aliases.promote(
        "news", first, promote_id="p", actor="ada", reason="first", expected_generation=None, as_of="2026-02-01T00:00:00+00:00"
    )

    result, _ = task.run(plan(fine_tune={"init_from": start}))

    assert result["base"].startswith(pinned)
    assert f"from {pinned}" in result["summary"]


def test_a_run_that_starts_from_scratch_has_no_base_to_pin(task, store, plan):
    result, _ = task.run(plan(base=None))

    assert result["base"] is None
    assert result["summary"].startswith("Retrain 'news' from a model that this run makes from scratch in ")


@pytest.mark.parametrize("start", ["champion", "latest"])
def test_a_first_run_starts_from_the_base_whatever_was_asked(task, plan, start):
    result, _ = task.run(plan(fine_tune={"init_from": start}))

    assert not result["base"].startswith("model://")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"fine_tune": {"epoch": 3}}, "UNKNOWN_SETTING FineTuneSpec has no setting 'epoch'; did you mean 'epochs'"),
        ({"finetune": {"epochs": 3}}, "UNKNOWN_SETTING overrides: no stage 'finetune'; did you mean 'fine_tune'"),
        ({"fine_tune": {"strategy": "linear_probe", "epochs": 3}}, "BAD_SETTING a linear_probe trains no backbone"),
        ({"fine_tune": {"unfreeze_blocks": 2}}, "BAD_SETTING unfreeze_blocks does not apply to strategy 'full'"),
        ({"fine_tune": {"backbone_lr": -1}}, "BAD_SETTING FineTuneSpec.backbone_lr must be above 0"),
        ({"evaluate": {"gate": {"margin": 2.0}}}, "BAD_SETTING Gate.confidence must lie between 0 and 1, and margin"),
        (
            {"evaluate": {"slices": ["desk"]}},
            "MISSING_COLUMN [desk] EvaluateSpec.slices names a column that the dataset does not keep",
        ),
        ({"fine_tune": {"task": {"text": "headlines"}}}, "; did you mean 'headline'?"),
        ({"evaluate": {"alias": "staging"}}, "BAD_SETTING EvaluateSpec.alias is 'staging', and the plan's alias is 'champion'"),
        ({"pull": {"window": "1 month"}}, "BAD_SETTING PullSpec.window must be an ISO 8601 duration"),
    ],
)
def test_wrong_settings_end_here_in_one_line(task, store, plan, overrides, line):
    assert line in refused(task, plan(overrides=overrides))


@pytest.mark.parametrize(
    ("features", "overrides", "line"),
    [
        ({}, {"fine_tune": {"strategy": "full"}}, "BAD_SETTING features belong to strategy 'linear_probe'"),
        ({"layers": [1, 2]}, {}, "WRONG_FEATURES a linear probe sees one layer"),
        ({}, {"features": {"pooling": "cls"}, "fine_tune": {"pooling": "mean"}}, "WRONG_FEATURES FineTuneSpec.pooling is 'mean'"),
        (
            {"task": {"text": "headlines", "label": "topic"}},
            {},
            "FeatureSpec.task.text names a column that the dataset does not keep; did you",
        ),
        (
            {},
            {"pull": {"task": {"text_pair": "id"}}},
            "BAD_SETTING a head on stored features is published for sentence-transformers, which takes one text",
        ),
        ({}, {"features": {"poling": "cls"}}, "UNKNOWN_SETTING FeatureSpec has no setting 'poling'; did you mean 'pooling'"),
    ],
)
def test_features_that_the_training_could_not_take_end_here_in_one_line(task, store, plan, features, overrides, line):
    assert line in refused(task, plan(features=features, fine_tune=FineTuneSpec(strategy="linear_probe"), overrides=overrides))


def test_a_plan_leaves_it_to_the_training_whether_two_numbers_are_one_layer(task, store, plan):
    probe = FineTuneSpec(strategy="linear_probe", layer=2)

    result, _ = task.run(plan(features=FeatureSpec(), fine_tune=probe))

    assert result["overrides"] == {}


def test_a_plan_with_features_hands_their_settings_on_and_tells_of_them(task, store, plan):
    options = {"features": FeatureSpec(splits=("train",)), "fine_tune": FineTuneSpec(strategy="linear_probe")}

    result, _ = task.run(plan(**options, overrides={"features": {"pooling": "cls", "max_length": None}}))

    assert result["overrides"] == {"features": {"pooling": "cls"}}
    assert "Extract cls features of layer -1 for train, for rows that have none yet." in result["summary"]


def test_settings_for_a_stage_that_the_plan_does_not_know_are_refused(task, store, plan):
    assert "overrides hold 'evaluate'" in refused(task, plan(evaluate=None, overrides={"evaluate": {"seed": 1}}))


def test_a_param_that_the_form_does_not_have_is_refused(task, store, plan):
    task.params, task.conf = {"epochs": 3, "seed": 0}, {"epoch": 5}

    assert refused(task, plan()).startswith("UNKNOWN_PARAM this DAG has no param 'epoch'; did you mean 'epochs'?")


@pytest.mark.parametrize("name", ["../news", "News", "", "a" * 64, "n\u0435ws"])
def test_names_that_could_leave_the_store_are_refused(task, store, plan, name):
    assert refused(task, plan(model=name)).startswith("BAD_NAME model name")


def test_a_base_that_is_not_there_is_refused(task, store, plan):
    assert refused(task, plan(base="file:///nowhere")).startswith("NO_BASE file:///nowhere there is no such folder")


def test_a_base_that_names_a_missing_alias_is_refused(task, store, plan):
    assert "NO_ALIAS model news has no alias 'champion'" in refused(task, plan(base="model://news@champion"))


def test_a_champion_whose_version_is_gone_is_refused(task, store, plan, published):
    version = published("news")
    store.aliases.promote(
        "news", version, promote_id="p", actor="ada", reason="first", expected_generation=None, as_of="2026-02-01T00:00:00+00:00"
    )
    store.objects.delete("models/news/versions/000001.json")

    assert refused(task, plan()).startswith("LOST_VERSION")


def test_a_store_of_another_layout_is_refused(task, store, plan):
    store.objects.put("store.json", b'{"layout": 9, "format": 1, "nonce": "n"}')

    assert "UNKNOWN_LAYOUT" in refused(task, plan())


def test_a_local_source_without_a_file_is_found_before_anything_runs(task, store, plan, tmp_path):
    line = refused(task, plan(pull={"name": "news", "source": f"{tmp_path}/news/*.csv"}))

    assert line.startswith(f"NO_SOURCE {tmp_path}/news/*.csv nothing is there")


@pytest.mark.parametrize(
    ("executor", "options"), [("CeleryExecutor", {}), ("LocalExecutor", {"look_for_sources": False})], ids=["workers", "by order"]
)
def test_a_local_source_is_not_looked_for_where_only_the_pull_would_see_it(task, store, plan, monkeypatch, executor, options):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)

    result, _ = task.run(plan(pull={"name": "news", "source": "/elsewhere/*.csv"}, **options))

    assert "Pull all rows of /elsewhere/*.csv" in result["summary"]


@pytest.fixture
def seaweed(seaweedfs, monkeypatch):
    """Points the store at the real S3 server; a test changes what is wrong."""

    def point(bucket="tests", **changes):
        aws = {"conn_type": "aws", "login": seaweedfs.access_key, "password": seaweedfs.secret_key} | changes
        extra = {"endpoint_url": seaweedfs.endpoint, "region_name": "us-east-1"}
        monkeypatch.setenv("AIRFLOW_CONN_MINIO", json.dumps(aws | {"extra": extra}))
        store = {"conn_type": "transfer_learning", "extra": {"root": f"s3://{bucket}/plan", "aws_conn_id": "minio"}}
        monkeypatch.setenv("AIRFLOW_CONN_TRANSFER_LEARNING_DEFAULT", json.dumps(store))

    return point


@pytest.mark.integration
def test_a_store_on_a_real_server_passes(task, plan, seaweed):
    seaweed()

    assert task.run(plan())[0]["store"] == "s3://tests/plan"


@pytest.mark.integration
def test_a_source_in_s3_without_an_object_is_found_before_anything_runs(task, plan, seaweed, s3):
    seaweed()
    s3.put_object(Bucket="tests", Key="plan-sources/news.csv", Body=b"")

    assert refused(task, plan(pull={"name": "news", "source": "s3://tests/plan-sources/*.parquet"})) == (
        "NO_SOURCE s3://tests/plan-sources/*.parquet nothing matches below the prefix s3://tests/plan-sources/;"
        " near: plan-sources/news.csv — check bucket, prefix and pattern"
    )
    assert task.run(plan(pull={"name": "news", "source": "s3://tests/plan-sources/*.csv"}))


@pytest.mark.integration
@pytest.mark.parametrize("wrong", [{"login": "nobody"}, {"password": "canary-secret"}])
def test_wrong_credentials_are_found_before_anything_runs(task, plan, seaweed, seaweedfs, wrong):
    seaweed(**wrong)

    line = refused(task, plan())

    assert "canary" not in line
    assert seaweedfs.secret_key not in line
    assert "s3://tests/plan" in line


@pytest.mark.integration
def test_a_missing_bucket_is_found_before_anything_runs(task, plan, seaweed):
    seaweed(bucket="no-such-bucket")

    assert "no-such-bucket" in refused(task, plan())


def test_the_run_is_told_apart_from_its_dag_params(task, store, plan):
    """A DAG without params may send any conf: other tasks may read it."""
    task.conf = {"anything": 1}
    operator = plan()
    context = task.context(operator) | {"dag": SimpleNamespace(params={})}
    task.render(operator, context)

    assert operator.execute(context)["model"] == "news"
