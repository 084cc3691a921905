"""Learning rate by step, as a share of the peak rate."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int, int, float], float]
"""(step from 0, steps of the whole phase, share of the steps with rising rate) -> share of the peak rate."""

RATIO = 32
"""How much smaller the lowest rate of ``slanted_triangular`` is than its peak (Howard & Ruder 2018)."""


def warmup_and_decay(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak rate at ``step``, counted from 0: linear warm-up, then linear decay.

    The first step already moves, step ``ceil(warmup * steps)`` has the peak, and the rate would reach 0 behind the last step.

    Args:
        step: 0 to ``steps - 1``.
        steps: of the whole run.
        warmup: share of the steps with rising rate.
    """
    rising = -int(-warmup * steps // 1)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (steps - step) / (steps - rising)


def slanted_triangular(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak rate at ``step``: a short linear rise, a long linear decay (Howard & Ruder 2018, equation 3).

    ``cut_frac`` of the paper is ``warmup``. Its decay divides by ``cut * (1 / cut_frac - 1)``, which is the number of steps after
    the peak only where ``steps * cut_frac`` is whole, and gives negative rates otherwise (15 steps, 0.1); here that number itself
    divides. A phase too short for a rise starts at the peak.

    Args:
        step: 0 to ``steps - 1``.
        steps: of the whole phase.
        warmup: share of the steps with rising rate.
    """
    cut = int(steps * warmup)
    share = step / cut if step < cut else 1 - (step - cut) / (steps - cut)
    return (1 + share * (RATIO - 1)) / RATIO


SCHEDULES: dict[str, Schedule] = {"linear": warmup_and_decay, "slanted_triangular": slanted_triangular}
"""By the name that stands in ``FineTuneSpec.schedule``."""
