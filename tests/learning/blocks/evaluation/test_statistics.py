"""Paired comparison: against published values, hand-worked examples and simulation."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from transfer_learning.blocks.evaluation.statistics import compare, holm, mcnemar


def paired(only_candidate, only_champion, both, neither=0):
    """Rows of one label on which the models are right as counted; -1 is a wrong answer."""
    candidate = [0] * only_candidate + [-1] * only_champion + [0] * both + [-1] * neither
    champion = [-1] * only_candidate + [0] * only_champion + [0] * both + [-1] * neither
    return np.zeros(len(candidate), dtype=np.int64), np.array(candidate), np.array(champion)


def three_labels(rows=300, seed=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    answers = [np.where(rng.random(rows) < skill, labels, rng.integers(0, 3, rows)) for skill in (0.8, 0.7)]
    return labels, answers[0], answers[1]


@pytest.mark.parametrize(
    ("ours", "theirs", "p_value"),
    [
        (6, 16, 0.0525),  # Fagerland, Lydersen & Laake 2013, airway hyper-responsiveness: exact conditional test
        (16, 6, 0.0525),
        (1, 7, 0.0703),  # 2 * (1 + 8) / 2**8
        (5, 5, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_exact(ours, theirs, p_value):
    result = mcnemar(*paired(ours, theirs, both=50))

    assert (result.only_candidate, result.only_champion) == (ours, theirs)
    assert math.isclose(result.p_value, p_value, abs_tol=5e-5)


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 * .005, 3 * .01, 2 * .03, and .04 may not fall below that
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_steps_down(raw, adjusted):
    assert holm(raw) == pytest.approx(adjusted)


def test_holm_counts_an_undefined_test_and_leaves_it_undefined():
    adjusted = holm([0.01, math.nan])

    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_interval_is_that_of_resampling_whole_rows(metric):
    labels, candidate, champion = three_labels()
    rng = np.random.default_rng(0)

    def value(rows, answers):
        hits = float(np.mean(labels[rows] == answers[rows]))
        return hits if metric == "accuracy" else f1_score(labels[rows], answers[rows], average="macro")

    draws = rng.integers(0, len(labels), (500, len(labels)))
    plain = np.quantile([value(rows, candidate) - value(rows, champion) for rows in draws], [0.025, 0.975])

    result = compare(labels, candidate, champion, metric=metric)

    every = np.arange(len(labels))
    assert result.difference == pytest.approx(value(every, candidate) - value(every, champion))
    assert np.abs(np.array(result.interval) - plain).max() < 0.015
    assert result.low < result.difference < result.high


def test_the_same_seed_and_any_order_of_rows_give_the_same_interval():
    labels, candidate, champion = three_labels()
    order = np.random.default_rng(1).permutation(len(labels))

    first = compare(labels, candidate, champion, metric="macro_f1", seed=5)
    again = compare(labels[order], candidate[order], champion[order], metric="macro_f1", seed=5)
    other = compare(labels, candidate, champion, metric="macro_f1", seed=6)

    assert first == again
    assert first.interval != other.interval


@pytest.mark.parametrize(
    ("rows", "gains", "losses"), [(20, 0.1, 0.1), (40, 0.0, 0.05), (40, 0.03, 0.03), (100, 0.05, 0.1), (300, 0.01, 0.03)]
)
def test_the_interval_covers_the_true_difference_as_often_as_it_says(rows, gains, losses):
    rng = np.random.default_rng(11)
    covered, trials = 0, 400
    for trial in range(trials):
        ours, theirs, both = rng.multinomial(rows, [gains, losses, 1 - gains - losses])
        result = compare(*paired(ours, theirs, both), samples=400, seed=trial)
        covered += result.low - 1e-12 <= gains - losses <= result.high + 1e-12

    assert covered / trials >= 0.93  # 95%, less two standard errors of 400 trials


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_few_rows_without_a_disagreement_are_no_proof_of_equality(metric):
    few, many = (compare(*paired(0, 0, both=rows), metric=metric) for rows in (10, 1000))

    assert few.difference == many.difference == 0
    assert few.low < -0.1
    assert many.low > -0.02


def test_the_p_value_is_about_the_bound_that_was_asked():
    rows = paired(20, 20, both=460)

    at_zero, at_margin = (compare(*rows, bound=bound) for bound in (0.0, -0.05))

    assert at_zero.p_value > 0.5
    assert at_margin.p_value < 0.01


def test_macro_f1_is_over_the_labels_that_occur():
    labels = np.array([0, 0, 1, 1])
    candidate, champion = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])

    result = compare(labels, candidate, champion, metric="macro_f1")

    # Candidate: F1 1 and 2/3; champion: 2/3 and 4/5. Label 2 has no row, so it has no F1.
    assert result.difference == pytest.approx((1 + 2 / 3) / 2 - (2 / 3 + 4 / 5) / 2)


def test_many_kinds_of_rows_are_resampled_in_pieces(monkeypatch):
    rows = three_labels()
    whole = compare(*rows, metric="macro_f1", samples=300)

    monkeypatch.setattr("transfer_learning.blocks.evaluation.statistics.MATRIX_CELLS", 100)

    assert compare(*rows, metric="macro_f1", samples=300) == whole
