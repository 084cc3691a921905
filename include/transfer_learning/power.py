"""How small a difference a test set can settle. Torch-free and scipy-free, so that a plan can say it before anything runs."""

from __future__ import annotations

import math
from statistics import NormalDist


def smallest_margin(rows: int, disagreement: float, confidence: float = 0.95) -> float:
    """Return the smallest margin that two equally good models can pass on this test set, as a share of the rows.

    It is half the width of the interval of a paired accuracy difference whose true value is 0: the variance of one row's
    difference is then the share of rows on which exactly one model is right. With 500 rows and 3% disagreement: 0.015.

    Args:
        rows: test rows, above 0.
        disagreement: share of rows on which exactly one of the two models is right, 0 to 1.
        confidence: of the two-sided interval, between 0 and 1.
    """
    assert rows > 0 and 0 <= disagreement <= 1 and 0 < confidence < 1
    return NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(disagreement / rows)
