"""Learning from draws of the rows and from scratch, and putting the candidates side by side, through real child processes."""

import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_task import Task
from airflow_transfer_learning.operators import CompareOperator, FeatureExtractOperator
from tiny_pipeline import headlines
from training_pipeline import Pipeline
from transfer_learning.refs import ComparisonRef

PROBE = {"strategy": "linear_probe"}


class Candidates(Pipeline):
    """Three candidates with their verdicts."""

    def __init__(self, folder):
        super().__init__(folder, headlines(160, seed=1))
        settings = [PROBE | {"train_rows": 8}, PROBE | {"train_rows": 40}, PROBE | {"train_rows": 8, "init_from": "scratch"}]
        self.models = [Task().run(self.fine_tune(spec=spec))[0] for spec in settings]
        self.verdicts = [Task().run(self.evaluate(model))[0] for model in self.models]


@pytest.fixture(scope="module")
def store(shared_store):
    return shared_store


@pytest.fixture(scope="module")
def candidates(store, tmp_path_factory):
    return Candidates(tmp_path_factory.mktemp("candidates"))


def compare(verdicts, **options):
    return CompareOperator(task_id="compare", spec={}, verdicts=verdicts, **options)


def test_the_candidates_are_put_side_by_side_and_a_second_run_finds_it(candidates, store, caplog):
    before = len(list(store.objects.list("")))
    result, _ = Task().run(compare(candidates.verdicts))

    found = ComparisonRef.from_dict(result)
    assert {(row["method"], row["train_rows"]) for row in found.rows if row["method"].startswith("linear")} == {
        ("linear_probe", 8), ("linear_probe", 40), ("linear_probe from scratch", 8)
    }  # fmt: skip
    assert found.uri.endswith(f"/models/news/comparisons/{found.digest}")
    assert len(list(store.objects.list(""))) == before + 3
    again, _ = Task(run_id="another").run(compare(list(reversed(candidates.verdicts))))
    assert again == result
    assert len(list(store.objects.list(""))) == before + 3


def test_other_candidates_or_another_confidence_are_another_comparison(candidates):
    digests = [
        Task().run(compare(candidates.verdicts[:2], **options))[0]["digest"]
        for options in ({}, {"overrides": {"confidence": 0.8}})
    ]
    digests.append(Task().run(compare(candidates.verdicts[1:]))[0]["digest"])

    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda verdicts: [], "NO_VERDICTS there is no verdict to compare"),
        (
            lambda verdicts: [verdicts[0], verdicts[1] | {"uri": "file:///elsewhere"}],
            "UNEVALUATED version 2 of news has no stored",
        ),
        (
            lambda verdicts: [verdicts[0], verdicts[1] | {"model": verdicts[1]["model"] | {"name": "other"}}],
            "WRONG_REF the verdicts are on models news and other",
        ),
        (lambda verdicts: [verdicts[0]["model"]], "WRONG_REF expected a 'verdict' ref, found 'model'"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(candidates, change, line):
    with pytest.raises(AirflowFailException, match=f"^{line}"):
        Task().run(compare(change(candidates.verdicts)))


def test_the_ledger_holds_the_rows_of_the_draw_alone(candidates, store, tmp_path):
    ledgers = [store.models.fetch_ledger("news", version, tmp_path / str(version))[0] for version in (1, 2)]
    few, more = (set(pq.read_table(path)["row_key"].to_pylist()) for path in ledgers)

    assert (len(few), len(more)) == (8, 40)
    assert few < more


def test_the_baselines_learned_from_the_same_draw(candidates, store):
    rows = [store.evaluations.read("news", version)[0]["metrics"]["baselines"]["tfidf"]["train_rows"] for version in (1, 2, 3)]

    assert rows == [8, 40, 8]


def test_from_scratch_the_base_gives_its_architecture_and_the_result_is_another(candidates, store):
    base, scratch = (store.models.manifest("news", version) for version in (1, 3))

    assert base["facts"]["base"] == scratch["facts"]["base"]
    assert base["fingerprint"] != scratch["fingerprint"]


def test_features_are_those_of_a_base_that_has_learned(candidates):
    spec = {"splits": ["train"]}
    features, _ = Task().run(
        FeatureExtractOperator(task_id="extract", spec=spec, dataset=candidates.dataset, base=candidates.base)
    )
    found, _ = Task().run(candidates.fine_tune(spec=PROBE | {"train_rows": 8}, features=features))

    assert found["version"] == 1
    with pytest.raises(AirflowFailException, match="^BAD_SETTING features are those of the base model's weights, and init_from"):
        Task().run(candidates.fine_tune(spec=PROBE | {"init_from": "scratch"}, features=features))


def test_a_draw_from_features_is_that_from_texts(candidates, store):
    spec = {"splits": ["train"]}
    features, _ = Task().run(
        FeatureExtractOperator(task_id="extract", spec=spec, dataset=candidates.dataset, base=candidates.base)
    )
    drawn, _ = Task().run(candidates.fine_tune(spec=PROBE | {"train_rows": 8}, features=features, force=True))

    def weights(version):
        files = store.models.manifest("news", version)["files"]
        return {entry["path"]: entry["sha256"] for entry in files if entry["path"].endswith(".safetensors")}

    assert weights(drawn["version"]) == weights(1) != {}


def test_more_rows_than_there_are_is_one_clear_line(candidates):
    rows = candidates.dataset["splits"]["train"]

    with pytest.raises(AirflowFailException, match=f"^TOO_FEW_ROWS train_rows is {rows + 1}, and there are {rows} — take fewer"):
        Task().run(candidates.fine_tune(spec=PROBE | {"train_rows": rows + 1}))
