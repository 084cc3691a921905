"""The rules between a candidate and promotion: evidence in, a decision with one plain sentence for each rule out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transfer_learning.blocks.evaluation.statistics import Comparison
from transfer_learning.specs import Gate

Outcome = Literal["pass", "fail", "inconclusive", "reported"]
Decision = Literal["passed", "refused", "inconclusive", "unchanged", "first"]


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule applied: what was measured, against what, and what came of it."""

    name: str
    value: float | None
    bound: float | None
    outcome: Outcome
    sentence: str
    interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as the verdict stores it."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "name": self.name,
            "value": self.value,
            "bound": self.bound,
            "interval": interval,
            "outcome": self.outcome,
            "sentence": self.sentence,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SliceEvidence:
    """Candidate against champion on the rows of one slice."""

    name: str
    """``column=value``."""
    comparison: Comparison
    p_adjusted: float
    """Holm-adjusted, of the difference being exactly the slice margin."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that the rules look at. A metric that is None or not a number is undefined."""

    candidate: Mapping[str, Any]
    champion: Mapping[str, Any] | None = None
    comparison: Comparison | None = None
    """Of the gate's metric; None without a champion."""
    slices: Sequence[SliceEvidence] = ()
    majority: Mapping[str, Any] | None = None
    tfidf: Mapping[str, Any] | None = None
    same_version: bool = False
    """The candidate is the champion."""
    newer: bool = False
    """The run's data are newer than the champion's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ruling:
    """The decision, whether promotion may follow, and why."""

    decision: Decision
    passed: bool
    sentences: list[str]
    rules: list[Rule]


def decide(gate: Gate, evidence: Evidence) -> Ruling:
    """Apply every rule and decide.

    A failed rule refuses; else an inconclusive one makes the decision inconclusive, and the gate's own rule says whether that
    promotes; else the candidate passes, or is the ``first``. An undefined figure fails its rule: the gate stays closed.
    """
    losing = _tfidf_rule(gate, evidence)
    rules = [_floor_rule(name, evidence.candidate, floor) for name, floor in sorted(gate.floors.items())]
    if evidence.same_version:
        sentence = "the candidate is the champion itself: unchanged, nothing to promote"
        return Ruling("unchanged", False, _sentences([sentence], [*losing, *rules]), [*losing, *rules])
    if evidence.champion is None:
        rules.append(_majority_rule(gate.metric, evidence))
    else:
        rules.append(_champion_rule(gate, evidence.comparison))
        if gate.slice_margin is not None:
            rules.extend(_slice_rule(gate, slice_) for slice_ in evidence.slices)
    rules = [*losing, *rules]
    outcomes = {rule.outcome for rule in rules}
    if "fail" in outcomes:
        return _ruling("refused", False, f"refused: {_count(rules, 'fail')} failed", rules)
    if "inconclusive" in outcomes:
        return _undecided(gate, evidence, rules)
    if evidence.champion is None:
        return _ruling(
            "first", True, "first version: there is no champion to compare with, so floors and baselines decide", rules
        )
    return _ruling("passed", True, "passed: every rule holds", rules)


def _ruling(decision: Decision, passed: bool, summary: str, rules: list[Rule]) -> Ruling:
    return Ruling(decision, passed, _sentences([summary], rules), rules)


def _sentences(summary: list[str], rules: list[Rule]) -> list[str]:
    """Put a loss against the bag of words first, then the summary, then the other rules."""
    lost = [rule.sentence for rule in rules if rule.name == "tfidf" and _worse(rule.value, rule.bound)]
    return lost + summary + [rule.sentence for rule in rules if rule.sentence not in lost]


def _count(rules: Sequence[Rule], outcome: Outcome) -> str:
    number = sum(rule.outcome == outcome for rule in rules)
    return f"{number} of {len(rules)} rules"


def _undecided(gate: Gate, evidence: Evidence, rules: list[Rule]) -> Ruling:
    summary = f"inconclusive: {_count(rules, 'inconclusive')} cannot be settled on this test set"
    if gate.inconclusive == "keep_champion":
        return _ruling("inconclusive", False, f"{summary}; the gate keeps the champion", rules)
    losses = [rule.name for rule in rules if rule.outcome == "inconclusive" and _worse(rule.value, 0.0)]
    if not evidence.newer:
        return _ruling("inconclusive", False, f"{summary}; not promoted, since the data are no newer than the champion's", rules)
    if losses:
        return _ruling("inconclusive", False, f"{summary}; not promoted, since {losses[0]} shows a loss", rules)
    return _ruling("inconclusive", True, f"{summary}; promoted, since the data are newer and nothing shows a loss", rules)


def _floor_rule(name: str, metrics: Mapping[str, Any], floor: float) -> Rule:
    value = _defined(metrics.get(name))
    if value is None:
        return Rule(f"floor {name}", None, floor, "fail", f"{name} is undefined, and its floor is {_setting(floor)}: fail")
    outcome: Outcome = "pass" if value >= floor else "fail"
    sign = ">=" if outcome == "pass" else "<"
    return Rule(f"floor {name}", value, floor, outcome, f"{name} {_figure(value, floor)} {sign} {_setting(floor)}: {outcome}")


def _majority_rule(metric: str, evidence: Evidence) -> Rule:
    value, bound = _defined(evidence.candidate.get(metric)), _defined((evidence.majority or {}).get(metric))
    if value is None or bound is None:
        missing = metric if value is None else f"{metric} of the majority class"
        return Rule("majority", value, bound, "fail", f"{missing} is undefined, and the first version must beat it: fail")
    outcome: Outcome = "pass" if value > bound else "fail"
    sign = ">" if outcome == "pass" else "<="
    return Rule(
        "majority",
        value,
        bound,
        outcome,
        f"{metric} {_figure(value, bound)} {sign} {_figure(bound, value)} of the majority class: {outcome}",
    )


def _tfidf_rule(gate: Gate, evidence: Evidence) -> list[Rule]:
    """Compare with the bag of words; a loss refuses only where the gate asks for it."""
    name, asked = "TF-IDF + logistic regression", gate.baselines == "refuse"
    value, bound = _defined(evidence.candidate.get(gate.metric)), _defined((evidence.tfidf or {}).get(gate.metric))
    if value is None or bound is None:
        if not asked:
            return []
        return [Rule("tfidf", value, bound, "fail", f"the comparison with {name} is undefined, and the gate asks for it: fail")]
    lost = value < bound
    outcome: Outcome = ("fail" if lost else "pass") if asked else "reported"
    sign = "<" if lost else ">="
    start = f"loses to {name}: " if lost else ""
    end = f" of {name}" if not lost else ""
    return [
        Rule(
            "tfidf",
            value,
            bound,
            outcome,
            f"{start}{gate.metric} {_figure(value, bound)} {sign} {_figure(bound, value)}{end}: {outcome}",
        )
    ]


def _champion_rule(gate: Gate, comparison: Comparison | None) -> Rule:
    bound = -gate.margin if gate.min_gain is None else gate.min_gain
    name = "non-inferiority" if gate.min_gain is None else "minimum gain"
    if comparison is None or not all(map(math.isfinite, (comparison.difference, *comparison.interval))):
        sentence = f"the {gate.metric} difference to the champion is undefined, and must be above {_signed(bound)}: fail"
        return Rule(name, None, bound, "fail", sentence)
    outcome: Outcome = "inconclusive"
    if comparison.low > bound:
        outcome = "pass"
    elif comparison.high <= bound:
        outcome = "fail"
    return Rule(name, comparison.difference, bound, outcome, _compared(gate, comparison, bound, outcome), comparison.interval)


def _slice_rule(gate: Gate, evidence: SliceEvidence) -> Rule:
    """Settle a slice where its Holm-adjusted p value allows it; otherwise it stays open."""
    assert gate.slice_margin is not None
    comparison, bound, name = evidence.comparison, -gate.slice_margin, f"slice {evidence.name}"
    if math.isnan(evidence.p_adjusted) or math.isnan(comparison.difference):
        return Rule(name, None, bound, "fail", f"{name}: the {gate.metric} difference to the champion is undefined: fail")
    outcome: Outcome = "inconclusive"
    if evidence.p_adjusted <= 1 - gate.confidence:
        outcome = "pass" if comparison.difference > bound else "fail"
    adjusted = f", Holm p {evidence.p_adjusted:.3f}"
    sentence = f"{name} ({comparison.rows} rows): {_compared(gate, comparison, bound, outcome, adjusted)}"
    return Rule(name, comparison.difference, bound, outcome, sentence, comparison.interval)


def _compared(gate: Gate, comparison: Comparison, bound: float, outcome: Outcome, note: str = "") -> str:
    relation = {"pass": "above", "fail": "not above", "inconclusive": "not settled against"}[outcome]
    figures = f"{_signed(comparison.difference)} [{_signed(comparison.low)}, {_signed(comparison.high)}]"
    level = f"{100 * gate.confidence:g}% interval{note}"
    return f"{gate.metric} difference to the champion {figures} ({level}) {relation} {_signed(bound)}: {outcome}"


def _defined(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _worse(value: float | None, bound: float | None) -> bool:
    return value is not None and bound is not None and value < bound


def _figure(value: float, against: float) -> str:
    """Write a figure with three decimals, and with more where three would hide that the two differ."""
    digits = 3
    while digits < 9 and value != against and f"{value:.{digits}f}" == f"{against:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}"


def _setting(value: float) -> str:
    """Write a bound as people set it: two decimals, more where it has more."""
    return f"{value:.2f}" if value == round(value, 2) else f"{value:g}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"
