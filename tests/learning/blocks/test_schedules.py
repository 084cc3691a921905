"""Every rate of every schedule, against the formula it stands for."""

import pytest

from transfer_learning.blocks.schedules import slanted_triangular, warmup_and_decay


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0.1), (40, 0.25), (7, 0.0), (1, 0.5), (3, 0.9)])
def test_the_rate_rises_and_falls_as_the_formula_says(steps: int, warmup: float) -> None:
    rates = [warmup_and_decay(step, steps, warmup) for step in range(steps)]

    rising = next(n for n in range(steps + 1) if n >= warmup * steps)
    for step, rate in enumerate(rates):
        expected = (step + 1) / (rising + 1) if step < rising else (steps - step) / (steps - rising)
        assert rate == pytest.approx(expected)
        assert 0 < rate <= 1
    assert warmup_and_decay(steps, steps, warmup) == 0 if rising < steps else True


def paper(step: int, steps: int, cut_frac: float, ratio: float) -> float:
    """Howard & Ruder (2018), equation 3, as it stands there."""
    cut = int(steps * cut_frac)
    p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_frac - 1))
    return (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize(("steps", "cut_frac"), [(10, 0.1), (200, 0.1), (1000, 0.1), (40, 0.25), (20, 0.5)])
def test_the_slanted_triangle_is_the_papers_at_every_step(steps: int, cut_frac: float) -> None:
    for step in range(steps):
        assert slanted_triangular(step, steps, cut_frac) == pytest.approx(paper(step, steps, cut_frac, 32))


@pytest.mark.parametrize(("steps", "cut_frac"), [(15, 0.1), (19, 0.1), (9, 0.1), (1, 0.1), (7, 0.0), (3, 0.9)])
def test_the_slanted_triangle_stays_above_a_32nd_where_the_papers_falls_below_zero(steps: int, cut_frac: float) -> None:
    rates = [slanted_triangular(step, steps, cut_frac) for step in range(steps)]

    assert max(rates) == 1 == rates[int(steps * cut_frac)]
    assert min(rates) >= 1 / 32
    assert paper(14, 15, 0.1, 32) < 0
