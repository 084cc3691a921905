"""Figures of a classifier on labelled rows. What cannot be computed is None with a sentence, never silently 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

Floats = NDArray[np.float64]

BINS = 10
"""Most calibration bins; fewer where a bin would hold under ``ROWS_PER_BIN`` rows."""

ROWS_PER_BIN = 20

NO_FIGURES: dict[str, Any] = {"precision": None, "recall": None, "f1": None, "rows": 0}

DRAWN_ROWS = 20_000_000
"""Most rows drawn for one calibration interval: large test sets take fewer resamples."""


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """Expected calibration error over bins of equal mass (Nguyen & O'Connor 2015), with its bootstrap interval."""

    error: float
    low: float
    high: float
    confidence: list[float]
    """Mean probability of the answers in each bin."""
    accuracy: list[float]
    """Share of right answers in each bin."""
    rows: list[int]


def classification_metrics(
    labels: Sequence[str], answers: Sequence[str], known: Sequence[str], probabilities: Floats | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the figures of one classifier and a warning for each that is undefined.

    Macro figures are means over the labels that occur in ``labels``. A label that the model does not know counts there with
    recall and F1 of 0, with a sentence; a label without test rows has no figures; a label that was never answered has no
    precision, and then the macro precision is undefined as well.

    Args:
        labels: true label names, at least one row.
        answers: the model's answers, one a row.
        known: labels the model knows, in the order of the columns of ``probabilities``.
        probabilities: shape (rows, len(known)); None for a model that gives none.

    Returns:
        ``accuracy``, ``macro_precision``, ``macro_recall``, ``macro_f1``, ``log_loss`` (natural logarithm), ``per_class``
        {label: precision, recall, f1, rows}, ``labels`` and ``confusion`` (rows are true labels, columns answers, both in the
        order of ``labels``).
    """
    names = label_order(known, labels, answers)
    precision, recall, f1, rows = precision_recall_fscore_support(labels, answers, labels=names, zero_division=np.nan)
    per_class = {
        name: {"precision": _figure(p), "recall": _figure(r), "f1": _figure(f), "rows": int(n)} if n else dict(NO_FIGURES)
        for name, p, r, f, n in zip(names, precision, recall, f1, rows, strict=True)
    }
    present = [name for name in names if per_class[name]["rows"]]
    metrics: dict[str, Any] = {"rows": len(labels), "accuracy": float(accuracy_score(labels, answers))}
    metrics |= {f"macro_{name}": _mean([per_class[label][name] for label in present]) for name in ("precision", "recall", "f1")}
    metrics["log_loss"] = _log_loss(labels, known, probabilities)
    warnings = _warnings(per_class, known, probabilities is not None)
    _hide_unknown(per_class, known)
    metrics["per_class"] = per_class
    metrics["labels"] = names
    # The library warns about a single label, where there is nothing to confuse.
    metrics["confusion"] = confusion_matrix(labels, answers, labels=names).tolist() if len(names) > 1 else [[len(labels)]]
    return metrics, warnings


def label_order(known: Sequence[str], *others: Sequence[str]) -> list[str]:
    """Return the known labels in their order, then those that only ``others`` hold, sorted."""
    return [*known, *sorted({name for other in others for name in other} - set(known))]


def calibration(
    confidence: Floats, correct: NDArray[np.bool_], *, samples: int = 2000, level: float = 0.95, seed: int = 0
) -> Calibration:
    """Return the calibration of the answers given.

    The interval is the basic bootstrap one (twice the estimate minus the quantiles): the error is a sum of absolute values, so
    resampling raises it, and the percentile interval would lie above the estimate. The lower end is 0 where a perfectly
    calibrated model with these probabilities would show the same error by chance. In simulations with 60 to 2,000 rows the 95%
    interval held the true error 83 to 97 times in 100: good enough to read, not to gate on.

    Args:
        confidence: probability of each answer, shape (rows,), at least one row.
        correct: whether it was right, shape (rows,).
        samples: resamples, fewer for very large test sets.
        level: of the interval.
        seed: of the resampling.
    """
    rows = len(confidence)
    order = np.argsort(confidence, kind="stable")
    bins = max(1, min(BINS, rows // ROWS_PER_BIN))
    starts = np.arange(bins) * rows // bins
    sizes = np.diff(np.append(starts, rows))
    gaps = (correct[order].astype(np.float64) - confidence[order]) / rows
    error = float(np.abs(np.add.reduceat(gaps, starts)).sum())
    tail = np.array([(1 - level) / 2, (1 + level) / 2])
    draws, by_chance = _resampled_errors(confidence[order], gaps, starts, max(200, min(samples, DRAWN_ROWS // rows)), seed)
    low, high = np.maximum(0, 2 * error - np.quantile(draws, tail)[::-1])
    return Calibration(
        error,
        0.0 if error <= np.quantile(by_chance, tail[1]) else float(low),
        float(high),
        (np.add.reduceat(confidence[order], starts) / sizes).tolist(),
        (np.add.reduceat(correct[order].astype(np.float64), starts) / sizes).tolist(),
        sizes.tolist(),
    )


def _resampled_errors(
    confidence: Floats, gaps: Floats, starts: NDArray[np.int64], samples: int, seed: int
) -> tuple[Floats, Floats]:
    """Return the errors of resampled rows, and those of a perfectly calibrated model, each of shape (samples,)."""
    rows, rng = len(confidence), np.random.default_rng(seed)
    drawn, by_chance = np.empty(samples), np.empty(samples)
    for i in range(samples):
        times = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        drawn[i] = np.abs(np.add.reduceat(gaps * times, starts)).sum()
        by_chance[i] = np.abs(np.add.reduceat(((rng.random(rows) < confidence) - confidence) / rows, starts)).sum()
    return drawn, by_chance


def _figure(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if len(defined) == len(values) else None


def _log_loss(labels: Sequence[str], known: Sequence[str], probabilities: Floats | None) -> float | None:
    """Return the mean negative log probability of the true label; None without probabilities or with an unknown label."""
    if probabilities is None or not set(labels) <= set(known):
        return None
    if len(known) == 1:
        return 0.0
    place = {name: column for column, name in enumerate(known)}
    numbers = [place[label] for label in labels]
    return float(log_loss(numbers, probabilities, labels=list(range(len(known)))))


def _warnings(per_class: dict[str, dict[str, Any]], known: Sequence[str], has_probabilities: bool) -> list[str]:
    warnings = []
    for name, figures in per_class.items():
        if name not in known and figures["rows"]:
            undefined = "; its precision and the log loss are undefined" if has_probabilities else "; its precision is undefined"
            warnings.append(
                f"label {name!r} was not seen in training: its {figures['rows']} test rows count as errors, "
                f"and as 0 in the macro means{undefined}"
            )
        elif not figures["rows"]:
            warnings.append(f"label {name!r} has no test row: its figures are undefined and it is left out of the macro means")
        elif figures["precision"] is None:
            warnings.append(f"label {name!r} was never answered: its precision and the macro precision are undefined")
    return warnings


def _hide_unknown(per_class: dict[str, dict[str, Any]], known: Sequence[str]) -> None:
    """Leave a label that the model cannot answer without figures of its own; its rows are in the counts and macro means."""
    for name, figures in per_class.items():
        if name not in known:
            figures.update(NO_FIGURES | {"rows": figures["rows"]})
