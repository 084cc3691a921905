"""Base models ranked by a task of its own, through real child processes; the best is what the next task starts from."""

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import PlanOperator, RankBasesOperator
from airflow_transfer_learning.operators.rank import table
from tiny_pipeline import headlines, write_base
from training_pipeline import Pipeline


class Ranked(Pipeline):
    """A second base, and the ranking of both."""

    def __init__(self, folder):
        super().__init__(folder, headlines(120, seed=1))
        self.bases = [self.base, write_base(folder / "other")]
        self.task = Task()
        self.found, _ = self.task.run(self.rank())

    def rank(self, **options):
        return RankBasesOperator(**{"task_id": "rank", "dataset": self.dataset, "bases": self.bases} | options)


@pytest.fixture(scope="module")
def store(shared_store):
    return shared_store


@pytest.fixture(scope="module")
def pipeline(store, tmp_path_factory):
    return Ranked(tmp_path_factory.mktemp("pipeline"))


def test_the_best_base_comes_first_and_is_pinned(pipeline):
    ranking = pipeline.found["ranking"]

    assert [entry["place"] for entry in ranking] == [1, 2]
    assert sorted(entry["base"].partition("#")[0] for entry in ranking) == sorted(pipeline.bases)
    assert pipeline.found["best"] == {"base": ranking[0]["base"], "layer": ranking[0]["best_layer"]}
    assert all(len(entry["base"].partition("#")[2]) == 16 for entry in ranking)
    assert pipeline.task.state.get("bases") and pipeline.task.state.get("progress")


def test_the_table_has_a_line_for_each_base_and_layer(pipeline):
    lines = table(pipeline.found["ranking"]).splitlines()

    assert len(lines) == 1 + 2 * (1 + 3)
    assert lines[1].startswith(
        f"1. {pipeline.found['best']['base']}: best layer {pipeline.found['best']['layer']}; random weights "
    )
    assert "LogME" in lines[2] and "probe" in lines[2]


def test_what_was_not_measured_is_called_unknown():
    entry = {"place": 1, "base": "hf://a/b", "best_layer": 1, "sampled": 2, "untrained": None}
    entry |= {"tokens": {"broken": None, "unknown": 0.25}, "layers": [{"number": 1, "logme": -0.5, "probe": None}]}

    assert table([entry]).splitlines()[1:] == [
        "1. hf://a/b: best layer 1; random weights unknown; broken not known, unknown 25.0%",
        "     layer  1  LogME  -0.500  probe unknown",
    ]


def test_a_plan_and_a_training_take_the_best_base_as_it_is(pipeline):
    best = pipeline.found["best"]["base"]

    plan, _ = Task(params={"best": best}).run(PlanOperator(task_id="plan", model="news", base="{{ params.best }}"))
    operator = pipeline.fine_tune(base="{{ params.best }}")

    assert plan["base"] == best
    assert Task(params={"best": best}).render(operator).base == best


@pytest.mark.parametrize("bases", [[], "file:///one"], ids=["none", "a text"])
def test_bases_that_are_no_list_are_one_line(pipeline, bases):
    with pytest.raises(AirflowFailException, match="pass a list of URIs of base models"):
        Task().run(pipeline.rank(bases=bases))
