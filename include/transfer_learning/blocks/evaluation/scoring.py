"""One model's answers on the test rows, with every figure made of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer_learning.blocks.evaluation.baselines import Answers
from transfer_learning.blocks.evaluation.metrics import Calibration, calibration, classification_metrics
from transfer_learning.blocks.predict import Classifier, Seen
from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import Stopped
from transfer_learning.specs import EvaluateSpec
from transfer_learning.stage import Run

BETWEEN_REPORTS = 1.0
"""Seconds between two lines of progress."""


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """Answers and figures; rows are in the order of the test rows."""

    answers: list[str]
    known: list[str]
    """Labels the model can answer."""
    metrics: dict[str, Any]
    warnings: list[str]
    probabilities: NDArray[np.float64] | None = None
    """Shape (rows, len(known))."""
    calibration: Calibration | None = None
    others: list[str] = dataclasses.field(default_factory=list)
    """Answers on the rows that only the slice of old data has."""

    @property
    def all_answers(self) -> list[str]:
        """Answers on the test rows, then on the others."""
        return [*self.answers, *self.others]

    def of_answer(self) -> NDArray[np.float64]:
        """Return the probability of each answer."""
        assert self.probabilities is not None
        return np.asarray(self.probabilities.max(axis=1))

    def of_label(self, labels: Sequence[str]) -> list[float | None]:
        """Return the probability each row's true label got, None where the model does not know it."""
        assert self.probabilities is not None
        place = {name: column for column, name in enumerate(self.known)}
        return [float(self.probabilities[row, place[label]]) if label in place else None for row, label in enumerate(labels)]


def see(
    classifier: Classifier, rows: Rows, others: Rows | None, run: Run, phase: str, known: tuple[Classifier, Seen] | None = None
) -> Seen:
    """Return what a model's head sees of every row, telling progress.

    Args:
        classifier: the model.
        rows: the test rows.
        others: rows that only the slice of old data has.
        run: hears about progress.
        phase: ``candidate`` or ``champion``.
        known: another model and what it saw of these rows: two heads on the same frozen backbone need it once.

    Raises:
        Stopped: the job was asked to stop.
    """
    started = reported = time.monotonic()
    texts, pairs = [*rows.texts, *(others.texts if others else ())], rows.pairs
    if others and pairs is not None:
        pairs = [*pairs, *(others.pairs or ())]

    def on_rows(done: int) -> None:
        nonlocal reported
        refuse_to_go_on(run)
        now = time.monotonic()
        if done == len(texts) or now - reported >= BETWEEN_REPORTS:
            reported, speed = now, done / max(now - started, 1e-9)
            run.progress(phase=phase, step=done, steps=len(texts), rows_per_second=speed, eta=(len(texts) - done) / speed)

    return classifier.see(texts, pairs, on_rows=on_rows, known=known)


def score_model(classifier: Classifier, seen: Seen, rows: Rows, spec: EvaluateSpec) -> Score:
    """Measure a model's answers on the test rows; what it saw may have more rows, which only answer.

    Args:
        classifier: the model.
        seen: of the test rows and then of others.
        rows: the test rows.
        spec: resamples, confidence and seed of the calibration.
    """
    found = classifier.judge(seen)
    every = [classifier.labels[column] for column in found.argmax(axis=1)]
    answers, probabilities = every[: len(rows)], found[: len(rows)]
    metrics, warnings = classification_metrics(rows.labels, answers, classifier.labels, probabilities)
    correct = np.array([answer == label for answer, label in zip(answers, rows.labels, strict=True)])
    calibrated = calibration(
        probabilities.max(axis=1), correct, samples=spec.bootstrap_samples, level=spec.gate.confidence, seed=spec.seed
    )
    metrics["expected_calibration_error"] = calibrated.error
    metrics["calibration"] = dataclasses.asdict(calibrated)
    return Score(answers, classifier.labels, metrics, warnings, probabilities, calibrated, every[len(rows) :])


def score_baseline(baseline: Answers, rows: Rows) -> Score:
    """Measure a baseline's answers."""
    metrics, warnings = classification_metrics(rows.labels, baseline.answers, baseline.known, baseline.probabilities)
    return Score(baseline.answers, baseline.known, metrics | {"train_rows": baseline.rows}, warnings)


def refuse_to_go_on(run: Run) -> None:
    """Raise where the job was asked to stop.

    Raises:
        Stopped: it was.
    """
    if run.stop_requested:
        raise Stopped("STOPPED the evaluation was asked to stop — a retry starts it again")
