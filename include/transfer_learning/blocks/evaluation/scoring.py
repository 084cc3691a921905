"""One model's answers on the test rows, with every figure made of them."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transfer_learning.blocks.evaluation.baselines import Answers
from transfer_learning.blocks.evaluation.metrics import Calibration, calibration, classification_metrics
from transfer_learning.blocks.feature_parts import Part, find
from transfer_learning.blocks.predict import Classifier, Seen
from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import Stopped
from transfer_learning.specs import EvaluateSpec
from transfer_learning.stage import Run

BETWEEN_REPORTS = 1.0
"""Seconds between two lines of progress."""

SAMPLE, ALIKE = 4, 0.99
"""Rows whose stored features are compared with fresh ones, and the least cosine; bf16 stays above 0.999."""

log = logging.getLogger(__name__)


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
    stored: int = 0
    """Test rows that were judged by stored features."""
    others: list[str] = dataclasses.field(default_factory=list)
    """Answers on the rows that only the slice of old data has."""
    unlike: bool = False
    """Whether the stored features were others than the model's own."""

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


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """What one model's head saw of every row: of the test rows, then of those that only the slice of old data has."""

    classifier: Classifier
    seen: Seen
    stored: int = 0
    """Test rows whose features were stored, and not computed."""
    unlike: bool = False
    """Whether the stored features are not what the head sees."""


def see(
    classifier: Classifier,
    rows: Rows,
    others: Rows | None,
    run: Run,
    phase: str,
    *,
    known: Seen | None = None,
    stored: Sequence[Part] = (),
) -> Shown:
    """Return what a model's head sees of every row, telling progress.

    Args:
        classifier: the model.
        rows: the test rows.
        others: rows that only the slice of old data has.
        run: hears about progress.
        phase: ``candidate`` or ``champion``.
        known: what another model saw of these rows: two heads on the same frozen backbone need it once.
        stored: features of what this model's head sees, by the hash of the input; a few rows are run all the same, to be sure.

    Raises:
        Stopped: the job was asked to stop.
    """
    texts, pairs = [*rows.texts, *(others.texts if others else ())], rows.pairs
    if others and pairs is not None:
        pairs = [*pairs, *(others.pairs or ())]
    progress, unlike = _progress(run, phase), False

    def look(places: Sequence[int], **options: Any) -> Seen:
        return classifier.see([texts[i] for i in places], None if pairs is None else [pairs[i] for i in places], **options)

    if stored and rows.input_hashes is not None:
        features, found = find(stored, rows.input_hashes, classifier.width)
        sample = np.flatnonzero(found)[:SAMPLE].tolist()
        unlike = bool(sample) and not (torch.cosine_similarity(look(sample).features, features[sample]) > ALIKE).all()
        if sample and not unlike:
            features = torch.cat([features, torch.empty(len(texts) - len(rows), classifier.width)])
            left = [*np.flatnonzero(~found).tolist(), *range(len(rows), len(texts))]
            if left:
                features[left] = look(left, on_rows=lambda done: progress(done, len(left))).features
            progress(len(texts), len(texts))
            return Shown(classifier, Seen(features), int(found.sum()))
    if unlike:
        log.warning("The stored features are not what the %s sees of the test rows: all are run", phase)
        run.progress(phase=phase, reason="the stored features are not what it sees of the test rows: all are run")
    seen = look(range(len(texts)), on_rows=lambda done: progress(done, len(texts)), known=known)
    return Shown(classifier, seen, unlike=unlike)


def _progress(run: Run, phase: str) -> Callable[[int, int], None]:
    """Return what tells how many rows of how many are done, at most once a second."""
    started = reported = time.monotonic()

    def tell(done: int, rows: int) -> None:
        nonlocal reported
        refuse_to_go_on(run)
        now = time.monotonic()
        if done == rows or now - reported >= BETWEEN_REPORTS:
            reported, speed = now, done / max(now - started, 1e-9)
            run.progress(phase=phase, step=done, steps=rows, rows_per_second=speed, eta=(rows - done) / speed)

    return tell


def score_model(shown: Shown, rows: Rows, spec: EvaluateSpec) -> Score:
    """Measure a model's answers on the test rows.

    Args:
        shown: to the model: the test rows and then others, which it only answers.
        rows: the test rows.
        spec: resamples, confidence and seed of the calibration.
    """
    classifier = shown.classifier
    found = classifier.judge(shown.seen)
    every = [classifier.labels[column] for column in found.argmax(axis=1)]
    answers, probabilities = every[: len(rows)], found[: len(rows)]
    metrics, warnings = classification_metrics(rows.labels, answers, classifier.labels, probabilities)
    correct = np.array([answer == label for answer, label in zip(answers, rows.labels, strict=True)])
    calibrated = calibration(
        probabilities.max(axis=1), correct, samples=spec.bootstrap_samples, level=spec.gate.confidence, seed=spec.seed
    )
    metrics["expected_calibration_error"] = calibrated.error
    metrics["calibration"] = dataclasses.asdict(calibrated)
    others = every[len(rows) :]
    return Score(answers, classifier.labels, metrics, warnings, probabilities, calibrated, shown.stored, others, shown.unlike)


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
