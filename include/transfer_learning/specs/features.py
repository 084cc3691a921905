"""Which features of a frozen base model are extracted."""

from __future__ import annotations

import dataclasses
from typing import Literal

from transfer_learning.errors import BadInput
from transfer_learning.settings import Settings
from transfer_learning.specs.task import TaskSpec

Pooling = Literal["mean", "cls", "max", "last_token", "concat"]
"""Mean of the row's tokens, its first token, the maximum over its tokens, its last token, or maximum, mean and last token side by
side (Howard & Ruder 2018)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec(Settings):
    """Layers, pooling and form of the features of a frozen base model."""

    layers: tuple[int | str, ...] = (-1,)
    """Blocks whose states are pooled: 0 is the embeddings, ``n`` the n-th layer, negative numbers count from the last; or names
    of the model's modules, such as ``encoder.layer.3`` (which is block 4). Several stand side by side in the order given."""
    pooling: Pooling = "mean"
    """From the states of a row's tokens to one vector."""
    normalize: bool = False
    """Scale each row's vector to length 1."""
    dtype: Literal["float32", "float16"] = "float32"
    """How the features are stored."""
    splits: tuple[Literal["train", "validation", "test", "unlabelled"], ...] = ("train", "validation")
    """Whose rows are extracted; ``unlabelled`` are the rows without a label, whatever their split."""
    shard: tuple[int, ...] = (0, 1)
    """``(i, n)``: of all rows the i-th of n parts, by the hash of the row's input."""
    max_length: int | None = None
    """Longest input in tokens; None is what the model can."""
    task: TaskSpec | None = None
    """Column roles; None takes the dataset's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the arithmetic; ``auto`` is bf16 where the processor multiplies it natively, else fp32."""

    def check(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise BadInput("BAD_SETTING", "FeatureSpec.layers must name at least one block, and none twice")
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise BadInput("BAD_SETTING", "FeatureSpec.splits must name at least one split, and none twice")
        if self.max_length is not None and self.max_length <= 0:
            raise BadInput("BAD_SETTING", f"FeatureSpec.max_length must be above 0, found {self.max_length}")
        if len(self.shard) != 2 or not 0 <= self.shard[0] < self.shard[1]:
            raise BadInput(
                "BAD_SETTING",
                f"FeatureSpec.shard is (i, n) with i from 0 to n - 1, found {self.shard}",
                "write (0, 1) for all rows",
            )
