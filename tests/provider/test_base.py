"""What every operator does alike: settings that come late, and one clear line for every end."""

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from jinja2 import UndefinedError

from airflow_transfer_learning.operators import FineTuneOperator
from transfer_learning import errors
from transfer_learning.refs import PlanRef
from transfer_learning.specs import FineTuneSpec

DATASET = {"kind": "dataset", "name": "news", "digest": "0" * 64, "rows": 1, "splits": {}, "schema": {}, "as_of": "2026-03-01"}


def fine_tune(**options):
    return FineTuneOperator(
        **{"task_id": "train", "spec": {}, "dataset": DATASET, "model": "news", "base": "file:///base"} | options
    )


def test_what_a_form_sends_keeps_its_type(task):
    task.params = {"epochs": 3, "rate": 1e-4, "stop": False, "label": "2024", "nothing": None}
    overrides = {
        "epochs": "{{ params.epochs }}",
        "backbone_lr": "{{ params.rate }}",
        "early_stopping": "{{ params.stop }}",
        "task": {"label": "{{ params.label }}", "text": "0.5"},
        "seed": "{{ params.nothing }}",
    }

    spec = task.render(fine_tune(spec={"seed": 7}, overrides=overrides)).merged_spec()

    assert (spec.epochs, spec.backbone_lr, spec.early_stopping, spec.seed) == (3, 1e-4, False, 7)
    assert (spec.task.label, spec.task.text) == ("2024", "0.5")


def test_text_around_an_expression_stays_text(task):
    task.params = {"day": 7}

    assert task.render(fine_tune(model="news-{{ params.day }}")).model == "news-7"


def test_template_text_in_what_a_user_sent_is_never_rendered(task):
    task.conf = {"label": "{{ 7 * 6 }}"}

    spec = task.render(fine_tune(overrides={"task": {"label": "{{ params.label }}"}})).merged_spec()

    assert spec.task.label == "{{ 7 * 6 }}"


def test_an_expression_without_a_value_fails(task):
    with pytest.raises(UndefinedError):
        task.render(fine_tune(overrides={"epochs": "{{ params.epoch }}"}))


def test_the_plans_overrides_come_before_the_operators_own(task):
    plan = PlanRef(model="news", base="file:///base", as_of="2026-03-01", overrides={"fine_tune": {"epochs": 3, "seed": 1}})

    spec = fine_tune(plan=plan.to_dict(), overrides={"seed": 2}).merged_spec()

    assert (spec.epochs, spec.seed) == (3, 2)


def test_a_typo_in_the_settings_is_found_when_the_dag_is_parsed():
    with pytest.raises(errors.BadInput, match="FineTuneSpec has no setting 'epoch'; did you mean 'epochs'"):
        fine_tune(spec={"epoch": 3})


def test_a_dict_with_templates_is_checked_when_the_task_runs(task):
    task.params = {"seed": "seven"}
    operator = task.render(fine_tune(spec={"seed": "{{ params.seed }}"}))

    with pytest.raises(errors.BadInput, match="FineTuneSpec.seed must be a whole number, found 'seven'"):
        operator.merged_spec()


def test_a_template_inside_a_frozen_spec_is_refused():
    with pytest.raises(errors.BadInput, match="a template inside a FineTuneSpec stays literal text"):
        fine_tune(spec=FineTuneSpec(task={"label": "{{ params.label }}"}))


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (errors.BadInput("MISSING_COLUMN", "no column"), AirflowFailException),
        (errors.Diverged("DIVERGED at step 7"), AirflowFailException),
        (errors.DeviceOutOfMemory("OUT_OF_MEMORY"), AirflowFailException),
        (errors.HostOutOfMemory("KILLED"), AirflowException),
        (errors.Stopped("STOPPED at step 3"), AirflowException),
        (errors.Crashed("CRASHED"), AirflowException),
        (errors.StoreUnreachable("STORE s3://x"), AirflowException),
        (errors.OutcomeUnknown("STORE s3://x"), AirflowException),
    ],
)
def test_every_end_is_one_line_that_fails_or_retries(error, becomes):
    with pytest.raises(AirflowException) as caught, fine_tune().clear_errors():
        raise error

    assert type(caught.value) is becomes
    assert str(caught.value) == str(error)
    assert caught.value.__suppress_context__


def test_a_task_that_was_asked_to_stop_never_succeeds():
    operator = fine_tune()

    with pytest.raises(AirflowException, match="^STOPPED task train was asked to stop"), operator.clear_errors():
        operator.on_kill()


def test_what_was_resolved_once_stays_for_every_retry(task):
    operator = fine_tune()
    answers = iter(["first", "second"])

    tries = [operator.pinned(task.context(operator), "base", lambda: next(answers)) for _ in range(2)]

    assert tries == ["first", "first"]


def test_a_publish_id_survives_retries_and_tells_runs_apart(task):
    operator = fine_tune()
    first, retry = (operator.publish_id(task.context(operator), "news", "f" * 64) for _ in range(2))
    task.run_id = "run-2"

    assert first == retry
    assert operator.publish_id(task.context(operator), "news", "f" * 64) != first


def test_another_store_than_the_planned_one_is_retried(task, store):
    plan = PlanRef(model="news", base="file:///base", as_of="2026-03-01", store="s3://bucket/prefix")

    with pytest.raises(
        AirflowException, match="^STORE 'transfer_learning_default' is file:.* and was s3://bucket/prefix in the plan"
    ):
        task.run(fine_tune(plan=plan.to_dict(), model=None, base=None))
