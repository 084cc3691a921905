"""The smallest margin that a test set can pass."""

import math

import pytest

from transfer_learning.power import smallest_margin


def test_five_hundred_rows_with_3_percent_disagreement_settle_one_and_a_half_points():
    assert round(smallest_margin(500, 0.03), 3) == 0.015


@pytest.mark.parametrize(
    ("rows", "disagreement", "confidence", "margin"),
    [(100, 0.25, 0.95, 1.959964 * 0.05), (10_000, 0.04, 0.99, 2.575829 * 0.002), (50, 0.0, 0.95, 0.0)],
)
def test_the_margin_is_half_the_width_of_the_interval(rows, disagreement, confidence, margin):
    assert math.isclose(smallest_margin(rows, disagreement, confidence), margin, rel_tol=1e-6)
