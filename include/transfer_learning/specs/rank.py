"""How base models are ranked for a dataset."""

from __future__ import annotations

import dataclasses
from typing import Literal

from transfer_learning.settings import Settings
from transfer_learning.specs.features import Pooling
from transfer_learning.specs.names import check_seed
from transfer_learning.specs.task import TaskSpec


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RankSpec(Settings):
    """How a quick look at base models is taken; it goes through a sample of the training rows, whatever their number."""

    pooling: Pooling = "mean"
    """From the states of a row's tokens to one vector."""
    task: TaskSpec | None = None
    """Column roles; None takes the dataset's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the arithmetic; ``auto`` is bf16 where the processor multiplies it natively, else fp32."""
    seed: int = 0
    """Decides the sample, the random weights that the bases are compared with, and the folds."""

    def check(self) -> None:
        check_seed(self.seed, "RankSpec.seed")
