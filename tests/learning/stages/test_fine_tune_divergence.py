"""Promise 7: NaN or infinity at any step, in the loss, in a gradient or in a weight, and nothing is published."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learning.stages.fine_tuning import Job, files
from promises import sizes
from transfer_learning.blocks import train_loop
from transfer_learning.errors import Diverged
from transfer_learning.run import describe

PLACES = ("loss", "gradient", "weights")
VALUES = (float("nan"), float("inf"))
STEPS = (0, 1, 4, 7, 8)
"""Of nine: after the last one nothing is computed any more."""
CASES = sorted(itertools.product(PLACES, VALUES, STEPS), key=lambda case: -case[-1])
"""The last step first: there the final check stands alone."""


def injected(patch: pytest.MonkeyPatch, place: str, value: float, at: int) -> None:
    """Put the value in its place at one optimizer step."""
    optimizer_step, losses = train_loop.optimizer_step, train_loop.Examples.losses
    now = -1

    def step(phase: train_loop.Phase, state: train_loop.State, rows: list[int]) -> tuple[float, float]:
        nonlocal now
        now, parameter = state.step, list(phase.trained.values())[-1]
        hooks = [parameter.register_hook(lambda gradient: gradient * value)] if (place, now) == ("gradient", at) else []
        result = optimizer_step(phase, state, rows)
        for hook in hooks:
            hook.remove()
        if (place, now) == ("weights", at):
            with torch.no_grad():
                parameter.view(-1)[0] = value
        return result

    def broken(examples: train_loop.Examples, rows: list[int]) -> tuple[torch.Tensor, ...]:
        return tuple(loss * (value if (place, now) == ("loss", at) else 1.0) for loss in losses(examples, rows))

    patch.setattr(train_loop, "optimizer_step", step)
    patch.setattr(train_loop.Examples, "losses", broken)


@pytest.mark.promise(7)
@pytest.mark.parametrize("count", sizes(6, len(CASES)))
def test_nothing_is_written_after_nan_or_infinity(tmp_path: Path, count: int, held: Callable[[str], None]) -> None:
    for number, (place, value, step) in enumerate(CASES[:count]):
        job = Job(tmp_path / str(number), rows=24)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Diverged, match=r"^DIVERGED ") as caught:
            injected(patch, place, value, step)
            job.run(batch_size=8, micro_batch=4, epochs=3)

        code, line = describe(caught.value)
        assert (code, "\n" in line) == (72, False)
        assert place == "weights" or f"step {step + 1}: the {place} is" in line
        assert files(job.folder / "out") == []
    held(f"{count} of {count} refused: loss, gradient and weights, NaN and infinity, at {len(STEPS)} steps")
