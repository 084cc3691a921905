"""Paired comparison of two classifiers on the same rows: bootstrap interval, exact McNemar, Holm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Codes = NDArray[np.int64]
"""Label numbers, one a row; a prediction outside the labels is -1."""

MATRIX_CELLS = 4_000_000
"""Numbers held at once while resampling: 32 MB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Candidate minus champion on the same rows."""

    difference: float
    low: float
    high: float
    """The two-sided interval."""
    p_value: float
    """Two-sided, of the difference being exactly the bound that was asked about."""
    rows: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.low, self.high


@dataclasses.dataclass(frozen=True, slots=True)
class McNemar:
    """Rows on which exactly one of the two is right, and whether the sides differ."""

    only_candidate: int
    only_champion: int
    p_value: float


def compare(
    labels: Codes,
    candidate: Codes,
    champion: Codes,
    *,
    metric: str = "accuracy",
    bound: float = 0.0,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Return the paired difference of a metric with its bootstrap percentile interval (Efron & Tibshirani 1993, chapter 13).

    Rows are resampled together with both models' answers. Two rows with the same label and the same two answers are alike, so
    one resample is a multinomial draw over the kinds of rows that occur: exact, fast, and independent of the order of rows.

    To the observed rows one imagined row is added in favour of each model, spread evenly over the labels, as in the adjusted
    interval of Bonett & Price (2012). Without them ten rows without a disagreement would count as proof of no difference.

    Args:
        labels: true label numbers, shape (rows,), at least one row.
        candidate: its answers, shape (rows,); -1 is wrong whatever the label.
        champion: its answers, shape (rows,).
        metric: ``accuracy`` or ``macro_f1``; the latter over the labels that occur.
        bound: the difference that ``p_value`` is about, such as ``-margin``.
        samples: resamples.
        confidence: of the two-sided interval.
        seed: of the resampling.
    """
    present, numbers = np.unique(labels, return_inverse=True)
    kinds, counts = _kinds(numbers.astype(np.int64), _renumber(candidate, present), _renumber(champion, present))
    measure = {"accuracy": _accuracy_difference, "macro_f1": _macro_f1_difference}[metric]
    difference = float(measure(kinds, counts[None, :].astype(np.float64), len(present))[0])
    kinds, weights = _with_imagined_rows(kinds, counts, len(present))
    rng = np.random.default_rng(seed)
    draws = np.concatenate(
        [
            measure(kinds, rng.multinomial(len(labels), weights / weights.sum(), size=size).astype(np.float64), len(present))
            for size in _chunks(samples, len(kinds))
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    below, above = np.count_nonzero(draws <= bound), np.count_nonzero(draws >= bound)
    p_value = min(1.0, 2 * (1 + min(below, above)) / (samples + 1))
    return Comparison(difference, float(low), float(high), float(p_value), len(labels))


def mcnemar(labels: Codes, candidate: Codes, champion: Codes) -> McNemar:
    """Return McNemar's exact test of two classifiers' error rates (McNemar 1947; binomial, two-sided).

    No row on which they differ gives p = 1.
    """
    right, champion_right = candidate == labels, champion == labels
    ours, theirs = int(np.sum(right & ~champion_right)), int(np.sum(champion_right & ~right))
    p_value = float(binomtest(ours, ours + theirs, 0.5).pvalue) if ours + theirs else 1.0
    return McNemar(ours, theirs, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for several tests by Holm's step-down rule (Holm 1979), in the order given.

    A value that is not a number stays one and counts as a test.
    """
    order = sorted(range(len(p_values)), key=lambda i: math.inf if math.isnan(p_values[i]) else p_values[i])
    adjusted, running = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        if not math.isnan(p_values[i]):
            running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
            adjusted[i] = running
    return adjusted


def _renumber(answers: Codes, present: Codes) -> Codes:
    """Number answers by the labels that occur; any other answer is -1."""
    places = np.searchsorted(present, answers).clip(max=len(present) - 1)
    return np.where(present[places] == answers, places, -1).astype(np.int64)


def _kinds(labels: Codes, candidate: Codes, champion: Codes) -> tuple[Codes, Codes]:
    """Return the kinds of rows (label, candidate, champion), shape (kinds, 3), and how many rows there are of each."""
    kinds, counts = np.unique(np.stack([labels, candidate, champion], axis=1), axis=0, return_counts=True)
    return kinds, counts.astype(np.int64)


def _with_imagined_rows(kinds: Codes, counts: Codes, labels: int) -> tuple[Codes, NDArray[np.float64]]:
    every, nothing = np.arange(labels), np.full(labels, -1)
    ours, theirs = np.stack([every, every, nothing], axis=1), np.stack([every, nothing, every], axis=1)
    weights = np.concatenate([counts.astype(np.float64), np.full(2 * labels, 1 / labels)])
    return np.concatenate([kinds, ours, theirs]), weights


def _chunks(samples: int, kinds: int) -> Iterator[int]:
    size = max(1, MATRIX_CELLS // kinds)
    for start in range(0, samples, size):
        yield min(size, samples - start)


def _accuracy_difference(kinds: Codes, draws: NDArray[np.float64], _labels: int) -> NDArray[np.float64]:
    signs = (kinds[:, 1] == kinds[:, 0]).astype(np.float64) - (kinds[:, 2] == kinds[:, 0])
    return np.asarray(draws @ signs / draws.sum(axis=1))


def _macro_f1_difference(kinds: Codes, draws: NDArray[np.float64], labels: int) -> NDArray[np.float64]:
    return _macro_f1(kinds[:, 0], kinds[:, 1], draws, labels) - _macro_f1(kinds[:, 0], kinds[:, 2], draws, labels)


def _macro_f1(truth: Codes, answers: Codes, draws: NDArray[np.float64], labels: int) -> NDArray[np.float64]:
    """Return macro F1 for each draw, shape (draws,); a label that a draw lost altogether does not count in its mean."""
    every = np.arange(labels)
    is_true = (truth[:, None] == every).astype(np.float64)
    is_answer = (answers[:, None] == every).astype(np.float64)
    support = draws @ is_true
    both = support + draws @ is_answer
    f1 = np.divide(2 * draws @ (is_true * is_answer), both, out=np.zeros_like(both), where=both > 0)
    kept = support > 0
    return np.asarray((f1 * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1))
