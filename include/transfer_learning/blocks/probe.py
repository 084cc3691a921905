"""A head on a frozen backbone: features once, then logistic regression to convergence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from transfer_learning.blocks.batching import Tokens, length_batches
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.train_loop import EVALUATION_TOKENS, in_halves

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Candidates for the inverse of the L2 penalty, on standardised features."""

FOLDS = 5
ROWS_FOR_CHOICE = 10_000
"""Rows that choose the penalty; all rows then fit the head."""

MAX_ITERATIONS = 2000

Array = np.ndarray


def extract_features(
    classifier: TextClassifier,
    tokens: Tokens,
    device: str,
    done: torch.Tensor,
    poll: Callable[[int, Callable[[], torch.Tensor]], None],
) -> torch.Tensor:
    """Return what the head sees of each row, fp32 (rows, width), on the CPU.

    Each row is padded to its own length rounded up to 8 and batched with rows of that length, so that it does not depend on
    its neighbours.

    Args:
        classifier: its backbone in evaluation mode.
        tokens: the rows.
        device: where the model lies.
        done: features of the first batches, from a checkpoint; empty (0, width) at the start.
        poll: called before each batch with the number of batches done and what returns their features so far.

    Raises:
        OutOfMemory: a single row does not fit.
    """
    batches = feature_batches(tokens)
    order = [row for rows in batches for row in rows]
    parts, rows_done = [done], len(done)

    def compute(rows: Sequence[int]) -> torch.Tensor:
        return classifier.features(tokens.batch(rows, device)).float().cpu()

    with torch.inference_mode():
        for number, rows in enumerate(batches):
            if rows_done >= sum(map(len, batches[: number + 1])):
                continue
            poll(number, lambda: torch.cat(parts))
            parts.append(in_halves(compute, rows))
            rows_done += len(rows)
    in_order = torch.cat(parts)
    features = torch.empty_like(in_order)
    features[order] = in_order
    return features


def feature_batches(tokens: Tokens) -> list[list[int]]:
    """Return the rows of each batch, in the order they are extracted."""
    return length_batches(tokens.lengths, EVALUATION_TOKENS)


def fit_linear(
    features: torch.Tensor, targets: torch.Tensor, classes: int, *, balanced: bool, seed: int
) -> dict[str, torch.Tensor]:
    """Fit multinomial logistic regression and return ``weight`` (classes, width) and ``bias`` (classes,) for raw features.

    Features are standardised for the fit, the L2 penalty is chosen by cross-validated log loss, and the standardisation is folded
    back into the one layer.

    Args:
        features: (rows, width).
        targets: class numbers, (rows,); every class occurs.
        classes: number of classes.
        balanced: weigh each class by the inverse of its share.
        seed: of the folds.
    """
    x = features.double().numpy()
    y = targets.numpy()
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    x = (x - mean) / scale
    weighting = "balanced" if balanced else None
    # The matrices are small: threads that wait for each other cost more than they save, twenty times more on a busy machine.
    with threadpool_limits(1):
        strength = _choose_strength(x, y, weighting, seed)
        model = _fit(x, y, strength, weighting)
    weight, bias = _per_class(model, classes)
    weight = weight / scale
    bias = bias - weight @ mean
    return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}


def _choose_strength(x: Array, y: Array, weighting: str | None, seed: int) -> float:
    """Return the penalty with the lowest cross-validated log loss."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(y))[:ROWS_FOR_CHOICE]
    folds = min(FOLDS, len(order))
    losses = {}
    for strength in STRENGTHS:
        total = 0.0
        for fold in range(folds):
            out = order[fold::folds]
            kept = np.setdiff1d(order, out)
            if len(np.unique(y[kept])) < 2:
                continue
            total += _log_loss(_fit(x[kept], y[kept], strength, weighting), x[out], y[out])
        losses[strength] = total
    return min(losses, key=lambda strength: losses[strength])


def _fit(x: Array, y: Array, strength: float, weighting: str | None) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a separable fold has no minimum at weak penalties
        return LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, class_weight=weighting).fit(x, y)


def _log_loss(model: LogisticRegression, x: Array, y: Array) -> float:
    """Return the summed log loss; a class that the fold has not seen counts as nearly impossible."""
    column = {int(name): i for i, name in enumerate(model.classes_)}
    chances = model.predict_proba(x)
    picked = [chances[row, column[int(name)]] if int(name) in column else 0.0 for row, name in enumerate(y)]
    return float(-np.log(np.maximum(picked, 1e-9)).sum())


def _per_class(model: LogisticRegression, classes: int) -> tuple[Array, Array]:
    """Return one row of weights for each class; with two classes scikit-learn keeps only the difference."""
    if classes > 2:
        return model.coef_, model.intercept_
    return np.concatenate([-model.coef_, model.coef_]) / 2, np.concatenate([-model.intercept_, model.intercept_]) / 2
