"""A linear classifier on stored features: logistic regression or a linear support vector machine, fitted to convergence."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Candidates for the inverse of the L2 penalty, on standardised features."""

SVM_STRENGTHS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)

FOLDS = 5
ROWS_FOR_CHOICE = 10_000
"""Rows that choose the penalty; all rows then fit the head."""

MAX_ITERATIONS = 2000

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Accuracy:
    """A cross-validated accuracy."""

    mean: float
    error: float
    """Its standard error."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Choice:
    """A penalty, and how the folds' fits with it answered."""

    loss: float
    strength: float
    temperature: float
    right: Array | None
    """Which answers were right; None without a fold."""


def fit(
    features: torch.Tensor,
    targets: torch.Tensor,
    classes: int,
    *,
    classifier: str = "softmax",
    balanced: bool = False,
    seed: int = 0,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, torch.Tensor]:
    """Fit a linear classifier and return ``weight`` (classes, width) and ``bias`` (classes,) for raw features.

    Features are standardised for the fit, the L2 penalty is chosen by cross-validated log loss, and the standardisation is folded
    back into the one layer. The scores of a support vector machine are scaled so that their softmax has the lowest
    cross-validated log loss (temperature scaling, Guo et al. 2017).

    Args:
        features: (rows, width).
        targets: class numbers, (rows,); every class occurs.
        classes: number of classes.
        classifier: ``softmax`` or ``linear_svm``.
        balanced: weigh each class by the inverse of its share.
        seed: of the folds.
        poll: called before each strength; what it raises ends the search.
    """
    x, mean, scale = _standardised(features)
    y = targets.numpy()
    weighting = "balanced" if balanced else None
    # The matrices are small: threads that wait for each other cost more than they save, twenty times more on a busy machine.
    with threadpool_limits(1):
        choice = _choose(classifier, x, y, classes, weighting, seed, poll)
        model = _new(classifier, choice.strength, weighting)
        weight, bias = _layer(_fit(model, x, y), classes)
    weight = weight / (scale * choice.temperature)
    bias = bias / choice.temperature - weight @ mean
    return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}


def cross_validated(
    features: torch.Tensor, targets: torch.Tensor, classes: int, *, seed: int = 0, poll: Callable[[], None] = lambda: None
) -> Accuracy | None:
    """Return how often the logistic regression of ``fit`` is right on rows that it was not fitted on.

    Args:
        features: (rows, width).
        targets: class numbers, (rows,).
        classes: number of classes.
        seed: of the folds.
        poll: called before each strength; what it raises ends the search.

    Returns:
        None where there are too few rows: no fold leaves two classes to fit.
    """
    x, _, _ = _standardised(features)
    y = targets.numpy()
    with threadpool_limits(1):
        choice = _choose("softmax", x, y, classes, None, seed, poll)
    if choice.right is None:
        return None
    judged = choice.right
    # One right and one wrong answer more than were seen: few rows never look certain.
    share = (judged.sum() + 1) / (len(judged) + 2)
    return Accuracy(float(judged.mean()), float(np.sqrt(share * (1 - share) / len(judged))))


def _standardised(features: torch.Tensor) -> tuple[Array, Array, Array]:
    """Return features of mean 0 and deviation 1, and what was taken away and divided by."""
    x = features.double().numpy()
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    return (x - mean) / scale, mean, scale


def _choose(
    classifier: str, x: Array, y: Array, classes: int, weighting: str | None, seed: int, poll: Callable[[], None]
) -> _Choice:
    """Return the penalty with the lowest cross-validated log loss, and what goes with it.

    The loss falls and then rises with the strength, so the search goes from the smallest, whose fits are quick, and ends at the
    first that is worse than the one before.
    """
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(y))[:ROWS_FOR_CHOICE]
    folds = _folds(order, y)
    candidates = STRENGTHS if classifier == "softmax" else SVM_STRENGTHS
    models = [_new(classifier, candidates[0], weighting) for _ in folds]
    if not folds:
        return _Choice(0.0, candidates[0], 1.0, None)
    best: _Choice | None = None
    for strength in candidates:
        poll()
        scores, truth = [], []
        for model, (kept, out) in zip(models, folds, strict=True):
            scores.append(_scores(_fit(model.set_params(C=strength), x[kept], y[kept]), x[out], classes))
            truth.append(y[out])
        found, expected = np.concatenate(scores), np.concatenate(truth)
        loss, temperature = _calibrated(found, expected, classifier)
        if best is not None and loss >= best.loss:
            break
        best = _Choice(loss, strength, temperature, found.argmax(axis=1) == expected)
    assert best is not None
    return best


def _folds(order: Array, y: Array) -> list[tuple[Array, Array]]:
    """Return rows to fit and rows to judge for each fold; a fold that leaves a single class to fit is left out."""
    parts = [(np.setdiff1d(order, order[fold::FOLDS]), order[fold::FOLDS]) for fold in range(min(FOLDS, len(order)))]
    return [(kept, out) for kept, out in parts if len(np.unique(y[kept])) > 1]


def _calibrated(scores: Array, y: Array, classifier: str) -> tuple[float, float]:
    """Return the mean log loss at the best temperature, and that temperature; logistic regression needs none."""

    def loss(log_temperature: float) -> float:
        chances = log_softmax(scores / np.exp(log_temperature), axis=1)[np.arange(len(y)), y]
        return float(-np.maximum(chances, np.log(1e-9)).mean())

    if classifier == "softmax":
        return loss(0.0), 1.0
    found = minimize_scalar(loss, bounds=(-5.0, 3.0), method="bounded")
    return float(found.fun), float(np.exp(found.x))


def _new(classifier: str, strength: float, weighting: str | None) -> Any:
    from sklearn.linear_model import LogisticRegression  # half a second that no other strategy needs
    from sklearn.svm import LinearSVC

    if classifier == "softmax":
        # Each strength starts where the one before ended: the penalty changes, the minimum moves little.
        return LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, class_weight=weighting, warm_start=True)
    return LinearSVC(C=strength, max_iter=MAX_ITERATIONS, class_weight=weighting, dual="auto", random_state=0)


def _fit(model: Any, x: Array, y: Array) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a separable fold has no minimum at weak penalties
        return model.fit(x, y)


def _scores(model: Any, x: Array, classes: int) -> Array:
    """Return a score for each class, (rows, classes); a class that the fit has not seen counts as nearly impossible."""
    weight, bias = _layer(model, len(model.classes_))
    scores = np.full((len(x), classes), -1e3)
    scores[:, model.classes_] = x @ weight.T + bias
    return scores


def _layer(model: Any, classes: int) -> tuple[Array, Array]:
    """Return one row of weights for each class; with two classes scikit-learn keeps only the difference."""
    if classes > 2:
        return model.coef_, model.intercept_
    return np.concatenate([-model.coef_, model.coef_]) / 2, np.concatenate([-model.intercept_, model.intercept_]) / 2
