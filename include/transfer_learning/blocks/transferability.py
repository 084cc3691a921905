"""How well frozen features and a tokenizer fit a task, told without training the backbone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

ITERATIONS = 2000
"""Most steps of the fixed point; a few dozen are the rule, and hundreds where features and labels have nothing in common."""

TOLERANCE = 1e-8
"""Relative change of the ratio of the precisions at which it has settled."""

WIDEST = 1e10
"""How far that ratio may lie from the features' largest and smallest variance: labels that the features give exactly, or not at
all, have their highest evidence at infinity."""

PIECES = 3
"""From so many pieces on a word counts as broken up: two are often a stem and its ending, three spell out a word unknown."""

Array = npt.NDArray[np.float64]


def logme(features: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the logarithm of the maximum evidence of the labels given features, a row (You et al. 2021).

    Each class against all others is a Bayesian linear regression, ``y = F w + noise`` with ``w ~ N(0, 1/alpha)``
    and ``noise ~ N(0, 1/beta)``. The evidence ``p(y | F, alpha, beta)`` is maximised over both precisions, and its logarithm is
    divided by the rows and averaged over the classes. It cannot overfit as the accuracy on training rows does, and features of
    different widths can be compared. It does not change where features are rotated or scaled.

    Args:
        features: (rows, width); not centred, as in the paper.
        targets: class numbers, (rows,).
    """
    x = features.double().numpy()
    present, numbers = np.unique(targets.numpy(), return_inverse=True)
    y = np.eye(len(present))[numbers]
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    variances = np.square(singular[singular > singular[0] * len(x) * np.finfo(float).eps])
    inside = np.square(left[:, : len(variances)].T @ y)
    outside = np.maximum(np.square(y).sum(axis=0) - inside.sum(axis=0), 0.0)
    return float(np.mean([_log_evidence(variances, inside[:, k], outside[k], len(x)) for k in range(len(present))])) / len(x)


def _log_evidence(variances: Array, inside: Array, outside: float, rows: int) -> float:
    """Return the maximum of the log evidence of one target.

    MacKay's fixed point, in the ratio of the precisions ``alpha / beta`` alone: for each ratio the best ``beta`` is known.

    Args:
        variances: squared singular values of the features, (rank,).
        inside: squared parts of the target along their left singular vectors, (rank,).
        outside: the rest of its square, which no weights reach.
        rows: how many there are.
    """
    # Features that are zero everywhere have no variance at all.
    lowest, highest = variances.min(initial=1.0) / WIDEST, variances.max(initial=1.0) * WIDEST
    ratio = float(variances.max(initial=1.0))
    for _ in range(ITERATIONS):
        fitted = np.sum(variances / (variances + ratio))
        weights = np.sum(variances * inside / np.square(variances + ratio))
        residual = np.sum(inside * np.square(ratio / (variances + ratio))) + outside
        if fitted >= rows or weights == 0:
            break
        before, ratio = ratio, float(np.clip(fitted / weights * residual / (rows - fitted), lowest, highest))
        if abs(ratio - before) <= TOLERANCE * before:
            break
    spread = np.sum(inside * ratio / (variances + ratio)) + outside
    beta = rows / max(spread, np.finfo(float).tiny)
    return float(rows / 2 * (np.log(beta / (2 * np.pi)) - 1) - np.sum(np.log1p(variances / ratio)) / 2)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenFigures:
    """How a tokenizer reads texts."""

    unknown: float | None
    """Share of tokens that stand for text it cannot write; None where it has no token for that."""
    broken: float | None
    """Share of words in ``PIECES`` or more pieces; None where it does not tell words."""


def token_figures(tokenizer: Any, texts: Sequence[str], max_length: int) -> TokenFigures:
    """Return how much of some texts the tokenizer does not know, or knows in small pieces only.

    Words are the tokenizer's own: for most, what stands between spaces, and each punctuation mark by itself.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        texts: at least one with a token.
        max_length: tokens of each text that are looked at.
    """
    encoded = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=max_length)
    rows = encoded["input_ids"]
    tokens = max(1, sum(len(row) for row in rows))
    unknown = sum(row.count(tokenizer.unk_token_id) for row in rows) / tokens if tokenizer.unk_token_id is not None else None
    if not tokenizer.is_fast:
        return TokenFigures(unknown=unknown, broken=None)
    pieces = [count for number in range(len(rows)) for count in Counter(encoded.word_ids(number)).values()]
    return TokenFigures(unknown=unknown, broken=sum(count >= PIECES for count in pieces) / max(1, len(pieces)))
