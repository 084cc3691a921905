"""Settings that nobody set: how rate, epochs and batch follow from the model's width and the number of rows."""

from __future__ import annotations

import dataclasses

from transfer_learning.errors import BadInput
from transfer_learning.specs import FineTuneSpec

REFERENCE_WIDTH = 384
"""Width of the model that the rates below were measured on; the rate falls as the width grows."""

STEPS = 160
"""Optimizer steps that small data need whatever their number of rows."""

BATCH_SIZES = ((1000, 8), (10_000, 16))
"""(rows below which, rows to a step); more rows take 32."""

FULL_LR = 2e-4
HEAD_LR = 1e-3
HEAD_EPOCHS = 20


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A spec with nothing left open."""

    strategy: str
    pooling: str
    epochs: int
    head_epochs: int
    batch_size: int
    micro_batch: int
    backbone_lr: float
    head_lr: float
    to_convergence: bool
    """The head alone is fitted by logistic regression; False trains it by gradient steps."""

    @property
    def format(self) -> str:
        """What the published folder loads with."""
        return "transformers" if self.pooling == "architecture" else "sentence_transformers"


def resolve(spec: FineTuneSpec, rows: int, width: int, *, pairs: bool) -> Plan:
    """Fill in what the spec leaves open.

    Args:
        spec: the settings.
        rows: labelled training rows.
        width: of the model's states.
        pairs: whether a row has two texts.

    Raises:
        BadInput: a pooled head for pairs: its published format takes one text.
    """
    own_head = spec.strategy == "full" or pairs
    pooling = spec.pooling or ("architecture" if own_head else "mean")
    if pairs and pooling != "architecture":
        raise BadInput(
            "BAD_SETTING",
            f"pooling {pooling!r} is published for sentence-transformers, which takes one text, and the task has pairs",
            "set pooling='architecture'",
        )
    batch_size = spec.batch_size or next((size for limit, size in BATCH_SIZES if rows < limit), 32)
    batch_size = min(batch_size, rows)
    lr = FULL_LR * (REFERENCE_WIDTH / width) ** 1.5
    return Plan(
        strategy=spec.strategy,
        pooling=pooling,
        epochs=spec.epochs or max(3, min(10, round(STEPS * batch_size / rows))),
        head_epochs=spec.head_epochs or HEAD_EPOCHS,
        batch_size=batch_size,
        micro_batch=min(spec.micro_batch or batch_size, batch_size),
        backbone_lr=spec.backbone_lr or lr,
        head_lr=spec.head_lr or (spec.backbone_lr or lr if spec.strategy == "full" else HEAD_LR),
        to_convergence=pooling != "architecture" and spec.head_epochs is None and spec.head_lr is None,
    )
