"""Figures of a classifier against numbers worked out by hand."""

import math

import numpy as np
import pytest

from transfer_learning.blocks.evaluation.metrics import calibration, classification_metrics


def test_every_figure_is_the_one_worked_out_by_hand():
    labels = ["a", "a", "a", "b", "b", "c"]
    answers = ["a", "a", "b", "b", "c", "c"]
    probabilities = np.full((6, 3), 0.25)
    probabilities[range(6), [0, 0, 1, 1, 2, 2]] = 0.5

    metrics, warnings = classification_metrics(labels, answers, ["a", "b", "c"], probabilities)

    assert metrics["rows"] == 6
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["per_class"] == {
        "a": {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "rows": 3},
        "b": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 2},
        "c": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "rows": 1},
    }
    assert metrics["macro_precision"] == pytest.approx(2 / 3)
    assert metrics["macro_recall"] == pytest.approx((2 / 3 + 0.5 + 1) / 3)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert metrics["log_loss"] == pytest.approx((4 * math.log(2) + 2 * math.log(4)) / 6)
    assert metrics["labels"] == ["a", "b", "c"]
    assert metrics["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert warnings == []


def test_a_label_without_test_rows_is_undefined_and_left_out_of_the_means():
    metrics, warnings = classification_metrics(["a", "b"], ["a", "c"], ["a", "b", "c"], np.eye(3)[[0, 2]] * 0.7 + 0.1)

    assert metrics["per_class"]["c"] == {"precision": None, "recall": None, "f1": None, "rows": 0}
    assert metrics["macro_recall"] == 0.5
    assert metrics["macro_f1"] == 0.5
    assert "label 'c' has no test row: its figures are undefined and it is left out of the macro means" in warnings


def test_a_label_unseen_in_training_is_undefined_and_its_rows_are_errors():
    metrics, warnings = classification_metrics(["a", "z"], ["a", "a"], ["a", "b"], np.array([[0.9, 0.1], [0.8, 0.2]]))

    assert metrics["accuracy"] == 0.5
    assert metrics["per_class"]["z"] == {"precision": None, "recall": None, "f1": None, "rows": 1}
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["log_loss"] is None
    assert warnings[-1] == (
        "label 'z' was not seen in training: its 1 test rows count as errors, and as 0 in the macro means; "
        "its precision and the log loss are undefined"
    )


def test_a_label_never_answered_has_no_precision():
    metrics, warnings = classification_metrics(["a", "b"], ["a", "a"], ["a", "b"])

    assert metrics["per_class"]["b"] == {"precision": None, "recall": 0.0, "f1": 0.0, "rows": 1}
    assert metrics["macro_precision"] is None
    assert metrics["macro_recall"] == 0.5
    assert warnings == ["label 'b' was never answered: its precision and the macro precision are undefined"]


def test_labels_keep_the_models_order_and_unknown_ones_follow():
    metrics, _ = classification_metrics(["x", "b"], ["b", "b"], ["b", "a"])

    assert metrics["labels"] == ["b", "a", "x"]


def test_the_calibration_error_is_over_bins_of_equal_mass():
    # Two bins of 20 rows: at 0.6 half are right, at 0.9 all are.
    confidence = np.array([0.6] * 20 + [0.9] * 20)
    correct = np.array([True, False] * 10 + [True] * 20)

    result = calibration(confidence, correct)

    assert result.error == pytest.approx((0.1 + 0.1) / 2)
    assert result.confidence == pytest.approx([0.6, 0.9])
    assert result.accuracy == pytest.approx([0.5, 1.0])
    assert result.rows == [20, 20]


def test_bins_hold_equally_many_rows_however_the_probabilities_crowd():
    confidence = np.concatenate([np.full(5, 0.4), np.linspace(0.98, 1, 498)])

    assert set(calibration(confidence, np.ones(503, dtype=bool), samples=200).rows) == {50, 51}


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_calibration_interval_holds_the_true_error(shift):
    rng = np.random.default_rng(7)
    covered, trials = 0, 100
    for trial in range(trials):
        confidence = rng.uniform(0.5, 1, 400)
        correct = rng.random(400) < confidence - shift
        result = calibration(confidence, correct, samples=200, seed=trial)
        covered += result.low - 1e-9 <= shift <= result.high + 1e-9

    assert covered / trials >= 0.85


def test_a_calibrated_model_is_not_said_to_be_off():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 500)

    result = calibration(confidence, rng.random(500) < confidence)

    assert result.error > 0.01
    assert result.low == 0.0
