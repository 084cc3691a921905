"""Pretrain on a tiny corpus through a real child process, then fine-tune from what was published."""

import json
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import (
    EvaluateOperator,
    FineTuneOperator,
    PlanOperator,
    PretrainOperator,
    PullDatasetOperator,
)
from tiny_pipeline import ROLES, headlines, write_base, write_csv

SCRATCH = {
    "architecture": "bert",
    "layers": 2,
    "hidden_size": 32,
    "heads": 2,
    "vocab_size": 100,
    "max_length": 32,
    "epochs": 2,
}
CONTINUED = {"max_length": 32, "epochs": 2}
SUPERVISED = SCRATCH | {"objective": "supervised"}


class Workplace:
    """A dataset with rows without a label, a base, and the operators on them."""

    def __init__(self, folder):
        self.folder, self.base = folder, write_base(folder / "base")
        self.pulled = {
            "name": "news",
            "source": write_csv(folder / "news.csv", self.rows()),
            "task": ROLES,
            "split": {"test": 0.4, "validation": 0.1},
            "unlabelled": "keep",
        }
        self.dataset, _ = Task().run(PullDatasetOperator(task_id="pull", spec=self.pulled))
        self.model, _ = Task().run(self.pretrain())

    def rows(self):
        return headlines(120, seed=1) + [row | {"topic": ""} for row in headlines(60, seed=2, first_id=500)]

    def pretrain(self, **options):
        return PretrainOperator(
            **{"task_id": "pretrain", "spec": SCRATCH, "dataset": self.dataset, "model": "language"} | options
        )


@pytest.fixture(scope="module")
def store(shared_store):
    return shared_store


@pytest.fixture(scope="module")
def workplace(store, tmp_path_factory):
    return Workplace(tmp_path_factory.mktemp("workplace"))


def keys_of(folder, column="_row_key"):
    return {key for path in folder.rglob("*.parquet") for key in pq.read_table(path, partitioning=None)[column].to_pylist()}


def test_a_published_language_model_tells_where_it_comes_from(workplace, store):
    facts = store.models.manifest("language", 1)["facts"]

    assert (workplace.model["kind"], workplace.model["name"], workplace.model["version"]) == ("model", "language", 1)
    assert facts["dataset"]["digest"] == workplace.dataset["digest"]
    assert facts["base"] == {}
    assert facts["metrics"]["validation_perplexity"] > 1
    assert facts["spec"]["task"]["text"] == "headline"


def test_no_test_row_was_read_whether_it_has_a_label_or_not(workplace, store, tmp_path):
    store.datasets.fetch("news", workplace.dataset["digest"], destination=tmp_path / "data")
    store.models.fetch_ledger("language", 1, tmp_path / "ledger")

    ledger = keys_of(tmp_path / "ledger", "row_key")

    assert ledger == keys_of(tmp_path / "data" / "train") | keys_of(tmp_path / "data" / "unlabelled-train")
    assert keys_of(tmp_path / "data" / "unlabelled-train")
    assert keys_of(tmp_path / "data" / "unlabelled-test")


@pytest.mark.parametrize("run_id", ["run-1", "run-2"])
def test_the_same_pretraining_again_is_found_and_nothing_runs(workplace, run_id):
    started = time.monotonic()

    again, _ = Task(run_id=run_id).run(workplace.pretrain())

    assert again == workplace.model
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(("change", "same"), [({"topic": "sport"}, True), ({"headline": "another text"}, False)])
def test_a_text_counts_and_a_label_does_not(workplace, change, same):
    times = Counter(row["headline"] for row in workplace.rows())
    rows = [row if row["topic"] or times[row["headline"]] > 1 else row | change for row in workplace.rows()]
    changed = workplace.pulled | {"source": write_csv(workplace.folder / "changed.csv", rows)}
    dataset, _ = Task().run(PullDatasetOperator(task_id="pull", spec=changed))

    found, _ = Task().run(workplace.pretrain(dataset=dataset))

    assert dataset["digest"] != workplace.dataset["digest"]
    assert (found["version"] == workplace.model["version"]) is same


def test_fine_tuning_starts_from_it_and_its_text_counts_in_the_ledger(workplace, store, tmp_path):
    tune = {"task_id": "train", "spec": {"epochs": 1}, "dataset": workplace.dataset, "model": "news"}

    tuned, _ = Task().run(FineTuneOperator(**tune, base="model://language@1"))

    manifest = store.models.manifest("news", tuned["version"])
    names = [path.name for path in store.models.fetch_ledger("news", tuned["version"], tmp_path / "ledger")]
    assert manifest["facts"]["base"]["uri"] == "model://language@1"
    assert names == ["news-000001.parquet", "language-000001.parquet"]


def test_a_row_that_was_read_before_it_had_a_label_is_new_to_the_classifier(workplace, store, tmp_path):
    tune = {"task_id": "train", "model": "later", "base": "model://language@1"}
    Task().run(FineTuneOperator(**tune, spec={"epochs": 1}, dataset=workplace.dataset))
    labelled = write_csv(workplace.folder / "labelled.csv", headlines(120, seed=1) + headlines(60, seed=2, first_id=500))
    dataset, _ = Task().run(PullDatasetOperator(task_id="pull", spec=workplace.pulled | {"source": labelled}))

    found, _ = Task().run(FineTuneOperator(**tune, spec={"init_from": "latest", "replay": 0.0}, dataset=dataset))

    passport = json.loads((store.models.fetch("later", found["version"], tmp_path / "model") / "passport.json").read_text())
    labelled_since = dataset["splits"]["train"] - workplace.dataset["splits"]["train"]
    new = int(passport["settings"]["replay"].split()[1])
    assert labelled_since * 0.9 < new <= labelled_since  # a text that had a label elsewhere is no new one


def test_a_version_is_continued_and_counts_as_its_parent(workplace, store):
    found, _ = Task().run(workplace.pretrain(spec=CONTINUED, base="model://language@1"))

    assert store.models.manifest("language", found["version"])["parents"] == [1]


def test_a_plan_pins_the_base_of_a_continued_pretraining(workplace, store):
    settings = {"pull": workplace.pulled, "pretrain": CONTINUED, "overrides": {"pretrain": {"epochs": 1}}}
    plan, _ = Task().run(PlanOperator(task_id="plan", model="news", base=workplace.base, **settings))

    found, _ = Task().run(workplace.pretrain(spec=CONTINUED, plan=plan, model="continued"))

    facts = store.models.manifest("continued", found["version"])["facts"]
    assert "Pretrain the base model with the objective 'masked_lm' on the text of the training rows." in plan["summary"]
    assert facts["base"]["uri"] == plan["base"]
    assert (facts["metrics"]["head_epochs"], facts["metrics"]["pretrain_epochs"]) == (1, 1)


def test_a_source_task_is_learned_from_labels_and_a_target_starts_from_its_backbone(workplace, store, tmp_path):
    options = {"spec": SUPERVISED, "model": "source"}
    source, _ = Task().run(workplace.pretrain(**options))
    again, _ = Task(run_id="run-2").run(workplace.pretrain(**options))

    tune = {"task_id": "train", "spec": {"epochs": 1}, "dataset": workplace.dataset, "model": "target", "base": source}
    tuned, _ = Task().run(FineTuneOperator(**tune))

    facts = store.models.manifest("target", tuned["version"])["facts"]
    folder = store.models.fetch("source", source["version"], tmp_path / "source")
    store.models.fetch_ledger("source", source["version"], tmp_path / "ledger")
    store.datasets.fetch("news", workplace.dataset["digest"], destination=tmp_path / "data", splits=("train",))
    passport = json.loads((folder / "passport.json").read_text())
    assert again == source
    assert (passport["strategy"], passport["labels"]) == ("supervised", ["business", "sport"])
    assert 0 <= store.models.manifest("source", 1)["facts"]["metrics"]["validation_accuracy"] <= 1
    assert facts["base"]["uri"] == "model://source@1"
    assert keys_of(tmp_path / "ledger", "row_key") == keys_of(tmp_path / "data" / "train")


def test_other_labels_of_the_same_text_are_another_source_task(workplace, tmp_path):
    rows = [row | {"topic": row["topic"][::-1]} for row in headlines(120, seed=1)]
    pulled = workplace.pulled | {"name": "renamed", "source": write_csv(tmp_path / "renamed.csv", rows)}
    renamed, _ = Task().run(PullDatasetOperator(task_id="pull", spec=pulled))
    options = {"spec": SUPERVISED | {"epochs": 1}, "model": "renamed"}

    first, _ = Task().run(workplace.pretrain(**options))
    second, _ = Task().run(workplace.pretrain(**options, dataset=renamed))

    assert (first["version"], second["version"]) == (1, 2)


def test_a_model_from_scratch_takes_the_tokenizer_of_the_base(workplace, store, tmp_path):
    spec = {name: value for name, value in SCRATCH.items() if name != "vocab_size"} | {"tokenizer": "base", "epochs": 1}

    found, _ = Task().run(workplace.pretrain(spec=spec, base="model://language@1", model="borrowed"))

    own, theirs = (
        store.models.fetch(name, version, tmp_path / name) / "tokenizer.json"
        for name, version in (("borrowed", found["version"]), ("language", 1))
    )
    assert json.loads(own.read_text())["model"] == json.loads(theirs.read_text())["model"]
    assert store.models.manifest("borrowed", 1)["facts"]["base"]["uri"] == "model://language@1"


def test_the_plan_says_that_labels_are_read(workplace):
    settings = {"pull": workplace.pulled, "pretrain": SUPERVISED}

    plan, _ = Task().run(PlanOperator(task_id="plan", model="news", base=workplace.base, **settings))

    assert "Pretrain a new bert (tiny) with the objective 'supervised' on the labels of the training rows." in plan["summary"]


def test_settings_may_change_at_run_time(workplace, store):
    operator = workplace.pretrain(overrides={"epochs": "{{ params.epochs }}", "seed": None})

    found, _ = Task(params={"epochs": 1}).run(operator)

    assert store.models.manifest("language", found["version"])["facts"]["spec"]["epochs"] == 1


def test_a_language_model_is_no_classifier(workplace):
    evaluate = {"task_id": "evaluate", "spec": {}, "candidate": workplace.model, "dataset": workplace.dataset}

    with pytest.raises(
        AirflowFailException, match="^NO_HEAD .*is that of a language model, which knows no labels — fine-tune it first"
    ):
        Task().run(EvaluateOperator(**evaluate))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"base": "file:///somewhere"},
            "^BAD_SETTING architecture is 'bert', which starts from scratch, and base is 'file:///somewhere'",
        ),
        ({"spec": CONTINUED}, "^MISSING_SETTING task pretrain needs base"),
        ({"model": None}, "^MISSING_SETTING task pretrain needs model"),
        ({"spec": SCRATCH | {"max_length": 4096}}, "^SMALL_CORPUS"),
    ],
)
def test_what_cannot_work_is_one_clear_line(workplace, options, line):
    with pytest.raises(AirflowFailException, match=line):
        Task().run(workplace.pretrain(**options))


def test_the_plans_model_is_the_classifiers_name(workplace):
    plan = {"kind": "plan", "model": "language", "base": workplace.base, "as_of": "2026-01-01T00:00:00+00:00"}

    with pytest.raises(
        AirflowFailException, match=r"^BAD_SETTING model is 'language', which is the plan's.*'language-pretrained'"
    ):
        Task().run(workplace.pretrain(plan=plan))


def test_a_typo_in_a_spec_fails_when_the_dag_is_parsed(workplace):
    with pytest.raises(
        Exception, match=r"^ARCHITECTURE 'gpt2' does not support the objective 'masked_lm' — masked_lm is learned by"
    ):
        workplace.pretrain(spec={"architecture": "gpt2"})


def test_every_field_that_the_design_names_is_a_template():
    assert {"spec", "plan", "model", "dataset", "base"} <= set(PretrainOperator.template_fields)
    assert json.loads(json.dumps(SCRATCH)) == SCRATCH
