"""The champion's own test rows are a slice of the verdict, so that nobody loses them unseen."""

import json

import pyarrow.parquet as pq
import pytest

from learning.stages.test_evaluate import LABELS, TRUTH, ledger, part
from tiny_classifiers import write_word_classifier
from transfer_learning.specs import EvaluateSpec, Gate
from transfer_learning.stage import Run
from transfer_learning.stages.evaluate import evaluate

ROWS = list(TRUTH.items())


@pytest.fixture
def judge(tmp_path):
    """Judge a candidate that has forgotten ``profit`` against a champion that knows every word; return the verdict."""
    inputs = {
        "candidate": [write_word_classifier(tmp_path / "candidate", TRUTH | {"profit": "sport"}, LABELS)],
        "champion": [write_word_classifier(tmp_path / "champion", TRUTH, LABELS)],
        "test": [part(tmp_path / "test", ROWS[:3])],
    }

    def judge(spec=None, **more):
        (tmp_path / "out").mkdir()
        evaluate(spec or EvaluateSpec(), inputs | more, tmp_path / "out", Run())
        return json.loads((tmp_path / "out" / "verdict.json").read_text())

    return judge


def before(tmp_path, rows):
    """The champion's test set; rows at the same place as in the present one are the same rows."""
    (tmp_path / "before").mkdir()
    return [part(tmp_path / "before" / "test", rows)]


def test_rows_that_only_the_champions_data_had_are_judged_in_a_slice_of_their_own(judge, tmp_path):
    verdict = judge(champion_test=before(tmp_path, ROWS))

    assert verdict["metrics"]["candidate"]["accuracy"] == 1.0
    assert verdict["test"]["rows"] == len(pq.read_table(tmp_path / "out" / "predictions.parquet")) == 3
    (old,) = verdict["slices"]
    assert (old["column"], old["value"], old["rows"]) == ("data", "old", 4)
    assert (old["candidate"]["accuracy"], old["champion"]["accuracy"], old["difference"]) == (0.75, 1.0, -0.25)


def test_of_a_test_set_that_grows_the_old_part_is_the_slice(judge, tmp_path):
    (old,) = judge(champion_test=before(tmp_path, ROWS[:2]))["slices"]

    assert (old["rows"], old["candidate"]["accuracy"]) == (2, 1.0)


def test_the_same_test_set_is_no_slice(judge, tmp_path):
    assert judge(champion_test=before(tmp_path, ROWS[:3]))["slices"] == []


def test_a_loss_on_old_data_refuses_where_slices_have_a_margin(judge, tmp_path):
    forgotten = [("profit", "money")] * 60

    verdict = judge(EvaluateSpec(gate=Gate(slice_margin=0.02)), champion_test=before(tmp_path, ROWS[:3] + forgotten))

    assert verdict["decision"] == "refused"
    assert any(sentence.startswith("slice data=old (63 rows): accuracy difference") for sentence in verdict["sentences"])


def test_old_rows_that_a_model_was_trained_on_do_not_judge(judge, tmp_path):
    verdict = judge(champion_test=before(tmp_path, ROWS), candidate_ledger=[ledger(tmp_path / "ledger", [3])])

    assert verdict["slices"] == []


def test_a_champions_test_set_with_other_columns_is_a_note_and_no_failure(judge, tmp_path):
    (folder,) = before(tmp_path, ROWS)
    table = pq.read_table(folder / "part.parquet")
    pq.write_table(table.drop_columns(["label"]), folder / "part.parquet")

    verdict = judge(champion_test=[folder])

    assert verdict["slices"] == []
    assert any("the champion's own test rows are no slice: MISSING_COLUMN" in sentence for sentence in verdict["sentences"])
