"""The evaluate stage on models whose every answer is known: a word stands for a label."""

import hashlib
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiny_classifiers import write_word_classifier
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.jobs import run_job
from transfer_learning.specs import EvaluateSpec, Gate, TaskSpec
from transfer_learning.stage import Run
from transfer_learning.stages.evaluate import evaluate

LABELS = ["sport", "money"]
TRUTH = {"goal": "sport", "match": "sport", "bank": "money", "profit": "money"}
SURE = 1 / (1 + math.exp(-2 * (4.7958 + 0.2085) / 3))
"""Probability of every answer of these models."""


def key(text):
    return hashlib.sha256(text.encode()).digest()


def part(folder, rows):
    """A folder with one Parquet part; a row is (text, label) or (text, label, desk)."""
    folder.mkdir()
    columns = {"text": [row[0] for row in rows], "label": [row[1] for row in rows], "desk": [row[-1] for row in rows]}
    for name in ("_row_key", "_row_hash", "_content_key"):
        columns[name] = pa.array([key(f"{folder.name} {name} {i}") for i in range(len(rows))], pa.binary(32))
    pq.write_table(pa.table(columns), folder / "part.parquet")
    return folder


def ledger(folder, places):
    """A ledger that holds these rows of the part ``test``."""
    folder.mkdir()
    columns = [pa.array([key(f"test {name} {i}") for i in places], pa.binary(32)) for name in ("_row_key", "_content_key")]
    pq.write_table(pa.table(columns, names=["row_key", "content_key"]), folder / "ledger.parquet")
    return folder


@pytest.fixture
def inputs(tmp_path):
    rows = list(TRUTH.items())
    return {
        "candidate": [write_word_classifier(tmp_path / "candidate", TRUTH | {"profit": "sport"}, LABELS)],
        "test": [part(tmp_path / "test", rows)],
        "train": [part(tmp_path / "train", rows * 2)],
    }


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def champion(tmp_path, **answers):
    return {"champion": [write_word_classifier(tmp_path / "champion", TRUTH | answers, LABELS)]}


def verdict_of(inputs, out, spec=None, **facts):
    evaluate(spec or EvaluateSpec(), inputs, out, Run(facts=facts))
    return json.loads((out / "verdict.json").read_text())


def test_the_verdict_on_a_first_version_is_exactly_this(inputs, out):
    facts = {"model": "news", "candidate_version": 1, "champion_version": None, "champion_generation": None}
    facts |= {"as_of": "2026-01-02T00:00:00+00:00", "champion_as_of": None, "test_uses": 3, "test_digest": "split"}
    facts |= {"dataset": {"name": "news", "digest": "abc"}}

    verdict = verdict_of(inputs, out, EvaluateSpec(gate=Gate(floors={"accuracy": 0.7})), **facts)

    candidate, baselines = verdict["metrics"]["candidate"], verdict["metrics"]["baselines"]
    calibration = candidate.pop("calibration")
    assert (calibration["rows"], calibration["accuracy"]) == ([4], [0.75])
    assert calibration["confidence"] == pytest.approx([SURE], abs=1e-4)
    assert calibration["low"] <= calibration["error"] == pytest.approx(SURE - 0.75, abs=1e-4)
    assert candidate == {
        "rows": 4,
        "accuracy": 0.75,
        "macro_precision": pytest.approx((2 / 3 + 1) / 2),
        "macro_recall": 0.75,
        "macro_f1": pytest.approx((0.8 + 2 / 3) / 2),
        "log_loss": pytest.approx(-(3 * math.log(SURE) + math.log(1 - SURE)) / 4, abs=1e-3),
        "expected_calibration_error": pytest.approx(SURE - 0.75, abs=1e-4),
        "per_class": {
            "sport": {"precision": pytest.approx(2 / 3), "recall": 1.0, "f1": pytest.approx(0.8), "rows": 2},
            "money": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2},
        },
        "labels": LABELS,
        "confusion": [[2, 0], [1, 1]],
    }
    assert (baselines["majority"]["accuracy"], baselines["tfidf"]["accuracy"]) == (0.5, 1.0)
    assert (baselines["majority"]["train_rows"], baselines["tfidf"]["train_rows"]) == (8, 8)
    test_digest = hashlib.sha256(b"".join(sorted(key(f"test _row_key {i}") for i in range(4)))).hexdigest()
    del verdict["metrics"], verdict["spec"]
    assert verdict == {
        "format": 1,
        "decision": "first",
        "passed": True,
        "sentences": [
            "loses to TF-IDF + logistic regression: accuracy 0.750 < 1.000: reported",
            "first version: there is no champion to compare with, so floors and baselines decide",
            "accuracy 0.750 >= 0.70: pass",
            "accuracy 0.750 > 0.500 of the majority class: pass",
            "decisions on this model that were made on this test split before: 3",
        ],
        "rules": [
            {
                "name": "tfidf",
                "value": 0.75,
                "bound": 1.0,
                "interval": None,
                "outcome": "reported",
                "sentence": "loses to TF-IDF + logistic regression: accuracy 0.750 < 1.000: reported",
            },
            {
                "name": "floor accuracy",
                "value": 0.75,
                "bound": 0.7,
                "interval": None,
                "outcome": "pass",
                "sentence": "accuracy 0.750 >= 0.70: pass",
            },
            {
                "name": "majority",
                "value": 0.75,
                "bound": 0.5,
                "interval": None,
                "outcome": "pass",
                "sentence": "accuracy 0.750 > 0.500 of the majority class: pass",
            },
        ],
        "slices": [],
        "dropped": {"total": 0, "candidate_ledger": 0, "champion_ledger": 0},
        "test": {"rows": 4, "digest": test_digest, "split_digest": "split", "uses": 3},
        "mcnemar": None,
        **{name: value for name, value in facts.items() if not name.startswith("test_")},
    }
    assert sorted(path.name for path in (out / "plots").iterdir()) == ["calibration.png", "confusion.png", "per_class.png"]


def test_candidate_and_champion_are_compared_row_by_row(inputs, out, tmp_path):
    many = part(tmp_path / "many", [(word, label) for _ in range(50) for word, label in TRUTH.items()])
    inputs |= champion(tmp_path, profit="sport", bank="sport") | {"test": [many]}

    metrics = evaluate(EvaluateSpec(), inputs, out, Run(facts={"candidate_version": 2, "champion_version": 1}))

    verdict = json.loads((out / "verdict.json").read_text())
    assert (verdict["decision"], verdict["passed"]) == ("passed", True)
    assert verdict["mcnemar"] == {"only_candidate": 50, "only_champion": 0, "p_value": pytest.approx(2 * 0.5**50)}
    assert verdict["metrics"]["champion"]["accuracy"] == 0.5
    assert (metrics["accuracy"], metrics["champion_accuracy"], metrics["difference"]) == (0.75, 0.5, 0.25)
    assert metrics["difference_low"] == verdict["rules"][-1]["interval"][0] > 0.15
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    assert verdict["sentences"][-1] == (
        "only the candidate is right on 50 of 200 test rows, only the champion on 0 (exact McNemar p 1.78e-15); "
        "so much disagreement lets this test set settle an accuracy margin of 0.069"
    )


def test_predictions_hold_each_rows_answers_and_probabilities(inputs, out, tmp_path):
    verdict_of(inputs | champion(tmp_path, goal="money"), out, candidate_version=2, champion_version=1)

    rows = pq.read_table(out / "predictions.parquet").to_pylist()

    found = {row["_row_key"]: row for row in rows}
    profit, goal = found[key("test _row_key 3")], found[key("test _row_key 0")]
    assert (profit["label"], profit["candidate"], profit["champion"]) == ("money", "sport", "money")
    assert (profit["p_candidate"], profit["p_label"]) == (pytest.approx(SURE, abs=1e-4), pytest.approx(1 - SURE, abs=1e-4))
    assert (goal["label"], goal["candidate"], goal["champion"]) == ("sport", "sport", "money")
    assert len(rows) == 4


def test_rows_of_either_ledger_do_not_judge(inputs, out, tmp_path):
    ledgers = {"candidate_ledger": [ledger(tmp_path / "a", [3])], "champion_ledger": [ledger(tmp_path / "b", [3, 0])]}

    verdict = verdict_of(inputs | champion(tmp_path) | ledgers, out, candidate_version=2, champion_version=1)

    left = sorted(key(f"test _row_key {i}") for i in (1, 2))
    assert verdict["metrics"]["candidate"]["accuracy"] == 1.0
    assert verdict["dropped"] == {"total": 2, "candidate_ledger": 1, "champion_ledger": 2}
    assert verdict["test"]["rows"] == 2
    assert verdict["test"]["digest"] == hashlib.sha256(b"".join(left)).hexdigest()
    assert any(sentence.startswith("2 of 4 test rows are left out") for sentence in verdict["sentences"])


def test_no_row_outside_the_ledgers_is_one_line_and_nothing_is_written(inputs, out, tmp_path):
    inputs["candidate_ledger"] = [ledger(tmp_path / "a", range(4))]

    with pytest.raises(BadInput, match=r"^NO_TEST_ROWS all 4 test rows stand in a ledger"):
        evaluate(EvaluateSpec(), inputs, out, Run())

    assert list(out.iterdir()) == []


def test_a_dataset_without_a_test_split_is_one_line(inputs, out):
    del inputs["test"]

    with pytest.raises(BadInput, match=r"^NO_TEST_ROWS the dataset has no test split — "):
        evaluate(EvaluateSpec(), inputs, out, Run())


def test_slices_come_from_the_task_and_from_the_spec(inputs, out, tmp_path):
    rows = [(word, label, "home" if label == "sport" else "world") for word, label in TRUTH.items()]
    inputs["test"] = [part(tmp_path / "sliced", rows)]

    by_task = verdict_of(inputs, out, EvaluateSpec(task=TaskSpec(slices=("desk",))))["slices"]

    assert by_task == [
        {"column": "desk", "value": "home", "rows": 2, "candidate": {"accuracy": 1.0, "macro_f1": 1.0}, "champion": None},
        {
            "column": "desk",
            "value": "world",
            "rows": 2,
            "candidate": {"accuracy": 0.5, "macro_f1": pytest.approx(2 / 3)},
            "champion": None,
        },
    ]
    (tmp_path / "again").mkdir()
    assert verdict_of(inputs, tmp_path / "again", EvaluateSpec(slices=("desk",)))["slices"] == by_task


def test_an_unknown_slice_column_is_one_line(inputs, out):
    with pytest.raises(BadInput, match=r"^MISSING_COLUMN .*\[desks\] there is no such column; did you mean 'desk'\?"):
        evaluate(EvaluateSpec(slices=("desks",)), inputs, out, Run())


def test_the_champion_itself_is_unchanged(inputs, out):
    verdict = verdict_of(inputs, out, candidate_version=3, champion_version=3)

    assert (verdict["decision"], verdict["passed"]) == ("unchanged", False)


@pytest.mark.parametrize(
    ("as_of", "champion_as_of", "passed"),
    [
        ("2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00", True),
        ("2026-01-01T01:00:00+02:00", "2026-01-01T00:00:00+00:00", False),
        ("2026-01-02T00:00:00", "2026-01-01T00:00:00+00:00", True),
        ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00", False),
        ("2026-01-02T00:00:00+00:00", None, False),
    ],
)
def test_newer_data_may_promote_what_cannot_be_settled(inputs, out, tmp_path, as_of, champion_as_of, passed):
    spec = EvaluateSpec(gate=Gate(inconclusive="promote_if_newer"))
    facts = {"candidate_version": 2, "champion_version": 1, "as_of": as_of, "champion_as_of": champion_as_of}

    verdict = verdict_of(inputs | champion(tmp_path, profit="sport"), out, spec, **facts)

    assert (verdict["decision"], verdict["passed"]) == ("inconclusive", passed)


def test_without_training_rows_there_are_no_baselines_and_the_first_version_is_refused(inputs, out):
    del inputs["train"]

    verdict = verdict_of(inputs, out)

    assert verdict["decision"] == "refused"
    assert verdict["metrics"]["baselines"] == {"majority": None, "tfidf": None}
    assert "no training rows were given: there are no baselines" in verdict["sentences"]


def test_a_stop_ends_the_evaluation_without_a_verdict(inputs, out):
    run = Run()
    run._stop = True

    with pytest.raises(Stopped, match=r"^STOPPED the evaluation was asked to stop"):
        evaluate(EvaluateSpec(), inputs, out, run)

    assert not (out / "verdict.json").exists()


def test_as_a_job_it_tells_its_phases_and_repeats_itself(inputs, tmp_path):
    inputs |= champion(tmp_path, goal="money")
    figures: list[dict] = []
    spec = EvaluateSpec(slices=("desk",))

    first = run_job("evaluate", spec, inputs, work=tmp_path / "first", on_progress=figures.append)
    again = run_job("evaluate", spec, inputs, work=tmp_path / "again")

    phases = [figure["phase"] for figure in figures if "phase" in figure]
    assert [name for name in dict.fromkeys(phases) if name != "started"] == ["candidate", "champion", "baselines", "evidence"]
    assert (first.out / "verdict.json").read_bytes() == (again.out / "verdict.json").read_bytes()
    assert first.numerics["precision"] == "fp32"
