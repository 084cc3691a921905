"""Fine-tune and evaluate on a tiny model, through real child processes, without a plan: each operator pins for itself."""

import time

import pyarrow.parquet as pq
import pytest
from airflow.sdk import BaseNotifier
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import PlanOperator, PromoteOperator
from tiny_pipeline import headlines, write_base
from training_pipeline import Pipeline
from transfer_learning.errors import HostOutOfMemory
from transfer_learning.store import layout

QUICK = {"epochs": 8, "backbone_lr": 0.005}


class Recorder(BaseNotifier):
    """Keeps what it was told; its text is a template."""

    template_fields = ("text",)

    def __init__(self):
        super().__init__()
        self.text = "{{ verdict.decision }}: {{ verdict.sentences[0] }}"
        self.told = []

    def notify(self, context):
        self.told.append(self.text)


class Broken(BaseNotifier):
    def notify(self, context):
        raise ConnectionError("no answer")


class Trained(Pipeline):
    """A first version is trained."""

    def __init__(self, folder):
        super().__init__(folder, headlines(160, seed=1), QUICK)
        self.task = Task()
        self.model, _ = self.task.run(self.fine_tune())

    def evaluate(self, candidate=None, **options):
        return super().evaluate(candidate or self.model, **options)


@pytest.fixture(scope="module")
def store(shared_store):
    return shared_store


@pytest.fixture(scope="module")
def pipeline(store, tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("pipeline"))


def everything(store):
    return {info.key: store.objects.get(info.key).data for info in store.objects.list("")}


def test_a_published_version_tells_where_it_comes_from(pipeline, store):
    facts = store.models.manifest("news", 1)["facts"]

    assert pipeline.model["version"] == 1
    assert facts["dataset"]["digest"] == pipeline.dataset["digest"]
    assert facts["base"]["uri"].startswith(f"{pipeline.base}#")
    assert (facts["dag"], facts["run"]) == ("dag", "run-1")
    assert facts["spec"]["task"]["text"] == "headline"


def test_no_test_row_was_trained_on(pipeline, store, tmp_path):
    store.datasets.fetch("news", pipeline.dataset["digest"], destination=tmp_path / "data")
    ledger = [
        key
        for path in store.models.fetch_ledger("news", 1, tmp_path / "ledger")
        for key in pq.read_table(path)["row_key"].to_pylist()
    ]
    test = [key for path in (tmp_path / "data" / "test").iterdir() for key in pq.read_table(path)["_row_key"].to_pylist()]

    assert len(ledger) == pipeline.dataset["splits"]["train"] + pipeline.dataset["splits"]["validation"]
    assert len(test) == pipeline.dataset["splits"]["test"] > 0
    assert set(ledger) & set(test) == set()


@pytest.mark.parametrize("strategy", ["full", "linear_probe"])
def test_training_goes_on_from_the_newest_version_whose_ledger_counts_too(pipeline, store, strategy):
    settings = {"strategy": strategy, "init_from": "latest", "seed": 1}
    newest = store.models.versions("news")[-1]["version"]

    found, _ = Task().run(pipeline.fine_tune(spec=settings if strategy == "linear_probe" else QUICK | settings))

    manifest = store.models.manifest("news", found["version"])
    assert manifest["facts"]["base"]["uri"] == f"model://news@{newest}"
    assert manifest["parents"] == [newest]


def test_a_model_of_this_run_comes_before_the_base_that_the_plan_pinned(pipeline, store, tmp_path):
    plan, _ = Task().run(PlanOperator(task_id="plan", model="sport", base=pipeline.base, fine_tune=QUICK))

    found, _ = Task().run(pipeline.fine_tune(model="sport", plan=plan, base=pipeline.model))

    assert store.models.manifest("sport", found["version"])["facts"]["base"]["uri"] == "model://news@1"
    ledgers = store.models.fetch_ledger("sport", found["version"], tmp_path)
    assert [path.name for path in ledgers] == [f"sport-{found['version']:06d}.parquet", "news-000001.parquet"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"spec": QUICK | {"init_from": "latest"}},
            "BAD_SETTING base is a model that this run has made, and init_from is 'latest'",
        ),
        ({"base": {"kind": "dataset"}}, "WRONG_REF expected a 'model' ref, found 'dataset'"),
    ],
)
def test_a_model_of_this_run_that_cannot_be_the_base_is_one_clear_line(pipeline, options, line):
    with pytest.raises(AirflowFailException, match=line):
        Task().run(pipeline.fine_tune(**{"base": pipeline.model} | options))


@pytest.mark.parametrize("run_id", ["run-1", "run-2"])
def test_the_same_training_again_is_found_and_nothing_runs(pipeline, store, run_id):
    before = everything(store)
    started = time.monotonic()

    again, _ = Task(run_id=run_id).run(pipeline.fine_tune())

    assert again == pipeline.model
    assert everything(store) == before
    assert time.monotonic() - started < 2


def test_a_base_that_changed_after_the_first_try_is_one_clear_line(pipeline, tmp_path):
    base = write_base(tmp_path / "base")
    task = Task()
    operator = pipeline.fine_tune(base=base)
    operator.pinned(task.context(operator), "base", lambda: operator.open_bases(operator.open_store()).resolve(base))
    (tmp_path / "base" / "config.json").write_text("{}")

    with pytest.raises(AirflowFailException, match=r"^BASE_CHANGED .*the files are no longer those that were pinned"):
        task.run(operator)


@pytest.mark.parametrize(("missing", "line"), [("model", "MISSING_SETTING task train needs model"), ("base", "needs base")])
def test_without_a_plan_model_and_base_must_be_named(pipeline, missing, line):
    with pytest.raises(AirflowFailException, match=line):
        Task().run(pipeline.fine_tune(**{missing: None}))


def test_a_dataset_that_is_not_in_the_store_is_one_clear_line(pipeline):
    with pytest.raises(AirflowFailException, match="^NO_SNAPSHOT"):
        Task().run(pipeline.fine_tune(dataset=pipeline.dataset | {"digest": "0" * 64}))


def test_a_candidate_whose_number_is_another_publish_is_one_clear_line(pipeline):
    with pytest.raises(AirflowFailException, match="^OTHER_VERSION version 1 of model news is not the one"):
        Task().run(pipeline.evaluate(pipeline.model | {"publish_id": "0" * 64}))


def test_a_retried_evaluation_returns_the_verdict_of_the_try_before(pipeline, store):
    task = Task(run_id="evaluated-twice")
    first, _ = task.run(pipeline.evaluate())
    before = everything(store)

    second, _ = task.run(pipeline.evaluate())

    assert first["decision"] == "first"
    assert first["metrics"]["accuracy"] > first["metrics"]["baseline_accuracy"] - 0.5
    assert second == first
    assert everything(store) == before


def test_a_refused_candidate_is_announced_and_a_broken_notifier_changes_nothing(pipeline, store):
    recorder = Recorder()
    hardly_trained = QUICK | {"epochs": 1, "backbone_lr": 1e-9, "head_lr": 1e-9}
    candidate, _ = Task().run(pipeline.fine_tune(model="guesses", spec=hardly_trained))
    out_of_reach = {"gate": {"floors": {"accuracy": 1.0}}}
    operator = pipeline.evaluate(candidate=candidate, spec=out_of_reach, notifiers=[Broken(), recorder])

    verdict, _ = Task(run_id="refused").run(operator)

    assert verdict["decision"] == "refused"
    assert recorder.told == [f"{verdict['decision']}: {verdict['sentences'][0]}"]
    assert store.evaluations.read("guesses", 1)[-1]["passed"] is False


def test_a_candidate_that_is_live_already_is_unchanged_at_once(pipeline, store):
    verdict, _ = Task(run_id="live").run(pipeline.evaluate())
    Task(run_id="live").run(PromoteOperator(task_id="promote", verdict=verdict))
    before = everything(store)
    started = time.monotonic()

    again, _ = Task(run_id="next").run(pipeline.evaluate())

    assert (again["decision"], again["passed"], again["champion"]) == ("unchanged", False, 1)
    assert everything(store) == before
    assert time.monotonic() - started < 2


def test_a_champion_is_read_once_for_all_tries(pipeline, store):
    """Without a plan, a retry compares with what the first try saw, even when the alias has moved since."""
    operator = pipeline.evaluate()
    task = Task()
    first = operator.champion(store, "other", "champion", task.context(operator))
    store.aliases.promote("news", 1, alias="seen", promote_id="p", actor="ada", reason="", expected_generation=None, as_of=None)

    again = operator.champion(store, "news", "seen", task.context(operator))

    assert first == again == (None, None)


def test_after_a_kill_for_memory_the_next_try_takes_half_the_micro_batch(pipeline, monkeypatch):
    task, seen = Task(), []

    def killed(stage, spec, inputs, **options):
        seen.append(spec.micro_batch)
        options["on_progress"]({"phase": "fine_tune", "step": 1, "micro_batch": spec.micro_batch or 12})
        raise HostOutOfMemory("KILLED stage fine_tune")

    monkeypatch.setattr("airflow_transfer_learning.operators.base.jobs.run_job", killed)
    for _ in range(3):
        with pytest.raises(AirflowException, match="KILLED"):
            task.run(pipeline.fine_tune(spec=QUICK | {"seed": 5}))

    assert seen == [None, 6, 3]


def test_a_try_that_is_killed_before_it_tells_anything_still_halves_the_micro_batch(pipeline, monkeypatch):
    task, seen = Task(), []

    def killed(stage, spec, inputs, **options):
        seen.append(spec.micro_batch)
        if spec.micro_batch is None:
            options["on_progress"]({"phase": "fine_tune", "step": 1, "micro_batch": 12})
        raise HostOutOfMemory("KILLED stage fine_tune")

    monkeypatch.setattr("airflow_transfer_learning.operators.base.jobs.run_job", killed)
    for _ in range(3):
        with pytest.raises(AirflowException, match="KILLED"):
            task.run(pipeline.fine_tune(spec=QUICK | {"seed": 6}))

    assert seen == [None, 6, 3]


def test_a_lost_alias_shows_before_a_child_starts_also_without_a_plan(pipeline, store, monkeypatch):
    store.aliases.promote("news", 1, alias="canary", promote_id="c", actor="ada", reason="", expected_generation=None, as_of=None)
    key = layout.alias_key("news", "canary")
    kept = store.objects.get(key).data
    store.objects.delete(key)
    monkeypatch.setattr(
        "airflow_transfer_learning.operators.base.jobs.run_job", lambda *_args, **_: pytest.fail("a child started")
    )
    try:
        with pytest.raises(AirflowFailException, match=r"^LOST_ALIAS \S+/canary.json is gone"):
            Task().run(pipeline.fine_tune(spec=QUICK | {"seed": 7}))
    finally:
        store.objects.put(key, kept)
