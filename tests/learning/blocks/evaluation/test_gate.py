"""The gate's decision table, each case with the sentence a reader sees."""

import math

import pytest

from transfer_learning.blocks.evaluation.gate import Evidence, SliceEvidence, decide
from transfer_learning.blocks.evaluation.statistics import Comparison
from transfer_learning.specs import Gate

GOOD = {"accuracy": 0.974, "macro_f1": 0.97}
MAJORITY = {"accuracy": 0.23}


def compared(difference, low, high, p_value=0.5, rows=500):
    return Comparison(difference, low, high, p_value, rows)


def against_champion(difference=0.01, low=-0.005, high=0.025, **options):
    return Evidence(candidate=GOOD, champion=GOOD, comparison=compared(difference, low, high), **options)


def first(candidate=GOOD, majority=MAJORITY, **options):
    return Evidence(candidate=candidate, majority=majority, **options)


def sliced(difference, p_adjusted, name="desk=sport"):
    return SliceEvidence(
        name=name, comparison=compared(difference, difference - 0.1, difference + 0.1, rows=40), p_adjusted=p_adjusted
    )


DECISIONS = {
    "clearly not worse": (
        {},
        against_champion(),
        "passed",
        True,
        "accuracy difference to the champion +0.010 [-0.005, +0.025] (95% interval) above -0.020: pass",
    ),
    "clearly worse": (
        {},
        against_champion(-0.05, -0.08, -0.021),
        "refused",
        False,
        "accuracy difference to the champion -0.050 [-0.080, -0.021] (95% interval) not above -0.020: fail",
    ),
    "the interval spans the margin": (
        {},
        against_champion(-0.01, -0.03, 0.01),
        "inconclusive",
        False,
        "accuracy difference to the champion -0.010 [-0.030, +0.010] (95% interval) not settled against -0.020: inconclusive",
    ),
    "the lower end lies on the margin": (
        {},
        against_champion(0.0, -0.02, 0.02),
        "inconclusive",
        False,
        "not settled against -0.020",
    ),
    "better by the gain asked for": (
        {"min_gain": 0.01},
        against_champion(0.03, 0.011, 0.05),
        "passed",
        True,
        "above +0.010: pass",
    ),
    "better, but maybe by less": (
        {"min_gain": 0.01},
        against_champion(0.02, 0.0, 0.04),
        "inconclusive",
        False,
        "settled against +0.010",
    ),
    "better, but by less": ({"min_gain": 0.01}, against_champion(0.005, 0.0, 0.009), "refused", False, "not above +0.010: fail"),
    "above the floor": ({"floors": {"accuracy": 0.9}}, against_champion(), "passed", True, "accuracy 0.974 >= 0.90: pass"),
    "on the floor": ({"floors": {"accuracy": 0.974}}, against_champion(), "passed", True, "accuracy 0.974 >= 0.974: pass"),
    "below a floor": ({"floors": {"macro_f1": 0.98}}, against_champion(), "refused", False, "macro_f1 0.970 < 0.98: fail"),
    "just below a floor": (
        {"floors": {"accuracy": 0.9}},
        first({"accuracy": 0.89996}),
        "refused",
        False,
        "accuracy 0.89996 < 0.90: fail",
    ),
    "an undefined metric closes the gate": (
        {"floors": {"macro_precision": 0.1}},
        against_champion(),
        "refused",
        False,
        "macro_precision is undefined, and its floor is 0.10: fail",
    ),
    "NaN closes the gate": (
        {"floors": {"accuracy": 0.0}},
        first({"accuracy": math.nan}),
        "refused",
        False,
        "accuracy is undefined",
    ),
    "a NaN difference closes the gate": (
        {},
        against_champion(math.nan, math.nan, math.nan),
        "refused",
        False,
        "the accuracy difference to the champion is undefined, and must be above -0.020: fail",
    ),
    "a NaN interval closes the gate": ({}, against_champion(0.1, math.nan, 0.2), "refused", False, "is undefined"),
    "first version": ({}, first(), "first", True, "accuracy 0.974 > 0.230 of the majority class: pass"),
    "first version below a floor": ({"floors": {"accuracy": 0.99}}, first(), "refused", False, "accuracy 0.974 < 0.99: fail"),
    "first version no better than the majority": (
        {},
        first({"accuracy": 0.23}),
        "refused",
        False,
        "accuracy 0.230 <= 0.230 of the majority class: fail",
    ),
    "first version without a baseline": (
        {},
        first(majority=None),
        "refused",
        False,
        "accuracy of the majority class is undefined",
    ),
    "the champion itself": (
        {},
        against_champion(same_version=True),
        "unchanged",
        False,
        "the candidate is the champion itself: unchanged, nothing to promote",
    ),
    "losing to a bag of words is reported": (
        {},
        against_champion(tfidf={"accuracy": 0.984}),
        "passed",
        True,
        "loses to TF-IDF + logistic regression: accuracy 0.974 < 0.984: reported",
    ),
    "losing to a bag of words refuses where asked": (
        {"baselines": "refuse"},
        against_champion(tfidf={"accuracy": 0.984}),
        "refused",
        False,
        "loses to TF-IDF + logistic regression: accuracy 0.974 < 0.984: fail",
    ),
    "beating a bag of words": (
        {"baselines": "refuse"},
        first(tfidf={"accuracy": 0.6}),
        "first",
        True,
        "accuracy 0.974 >= 0.600 of TF-IDF + logistic regression: pass",
    ),
    "no bag of words where asked": (
        {"baselines": "refuse"},
        first(),
        "refused",
        False,
        "TF-IDF + logistic regression is undefined",
    ),
    "inconclusive, newer data, no loss": (
        {"inconclusive": "promote_if_newer"},
        against_champion(0.0, -0.03, 0.03, newer=True),
        "inconclusive",
        True,
        "promoted, since the data are newer and nothing shows a loss",
    ),
    "inconclusive, newer data, a loss": (
        {"inconclusive": "promote_if_newer"},
        against_champion(-0.001, -0.03, 0.03, newer=True),
        "inconclusive",
        False,
        "not promoted, since non-inferiority shows a loss",
    ),
    "inconclusive, same data": (
        {"inconclusive": "promote_if_newer"},
        against_champion(0.0, -0.03, 0.03),
        "inconclusive",
        False,
        "not promoted, since the data are no newer than the champion's",
    ),
    "a failed floor outweighs what is open": (
        {"inconclusive": "promote_if_newer", "floors": {"accuracy": 0.99}},
        against_champion(0.0, -0.03, 0.03, newer=True),
        "refused",
        False,
        "refused: 1 of 2 rules failed",
    ),
    "every slice holds": (
        {"slice_margin": 0.1},
        against_champion(slices=[sliced(0.0, 0.01)]),
        "passed",
        True,
        "slice desk=sport (40 rows): accuracy difference to the champion +0.000 [-0.100, +0.100] (95% interval, Holm p 0.010)"
        " above -0.100: pass",
    ),
    "one slice is worse": (
        {"slice_margin": 0.1},
        against_champion(slices=[sliced(-0.3, 0.01)]),
        "refused",
        False,
        "slice desk=sport",
    ),
    "a slice is open after Holm": (
        {"slice_margin": 0.1},
        against_champion(slices=[sliced(0.0, 0.06)]),
        "inconclusive",
        False,
        "not settled against -0.100: inconclusive",
    ),
    "an undefined slice closes the gate": (
        {"slice_margin": 0.1},
        against_champion(slices=[sliced(0.0, math.nan)]),
        "refused",
        False,
        "slice desk=sport: the accuracy difference to the champion is undefined: fail",
    ),
    "an open slice with a loss is not promoted": (
        {"slice_margin": 0.1, "inconclusive": "promote_if_newer"},
        against_champion(slices=[sliced(-0.05, 0.5)], newer=True),
        "inconclusive",
        False,
        "not promoted, since slice desk=sport shows a loss",
    ),
    "slices without a margin are no rule": (
        {},
        against_champion(slices=[sliced(-0.3, 0.001)]),
        "passed",
        True,
        "every rule holds",
    ),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_the_gate_decides(case):
    settings, evidence, decision, passed, sentence = DECISIONS[case]

    ruling = decide(Gate.from_dict(settings), evidence)

    assert (ruling.decision, ruling.passed) == (decision, passed)
    assert any(sentence in line for line in ruling.sentences), ruling.sentences


def test_a_loss_to_the_bag_of_words_is_the_first_sentence():
    ruling = decide(Gate(floors={"accuracy": 0.9}), first(tfidf={"accuracy": 0.984}))

    assert ruling.sentences == [
        "loses to TF-IDF + logistic regression: accuracy 0.974 < 0.984: reported",
        "first version: there is no champion to compare with, so floors and baselines decide",
        "accuracy 0.974 >= 0.90: pass",
        "accuracy 0.974 > 0.230 of the majority class: pass",
    ]


def test_a_rule_is_stored_with_its_figures():
    (rule,) = decide(Gate(), against_champion()).rules

    assert rule.to_dict() == {
        "name": "non-inferiority",
        "value": 0.01,
        "bound": -0.02,
        "interval": [-0.005, 0.025],
        "outcome": "pass",
        "sentence": "accuracy difference to the champion +0.010 [-0.005, +0.025] (95% interval) above -0.020: pass",
    }


def test_the_gates_own_metric_is_the_one_compared():
    ruling = decide(Gate(metric="macro_f1"), first(majority={"accuracy": 0.99, "macro_f1": 0.1}, tfidf={"macro_f1": 0.98}))

    assert ruling.decision == "first"
    assert ruling.sentences[0] == "loses to TF-IDF + logistic regression: macro_f1 0.970 < 0.980: reported"
