"""Learning rate by step."""

from __future__ import annotations


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
