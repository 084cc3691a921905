"""Heads: from the last block's states to logits. Two steps, so that features of a frozen backbone are computed once."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from transfer_learning.blocks.backbone import Backbone, Batch
from transfer_learning.blocks.pooling import POOLINGS, last_token, pool, pooled_width


class Head(Protocol):
    """What every head offers."""

    def pool(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return one feature vector for each row, (rows, width), without any weight of the head."""

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, (rows, labels)."""


class PooledHead(nn.Module):
    """One linear layer on pooled states, published as the ``Dense`` of a sentence-transformers model.

    Args:
        width: of the states.
        labels: number of classes.
        pooling: one of ``pooling.POOLINGS``, over the row's own tokens.
        normalize: whether the layer sees vectors of length 1.
    """

    def __init__(self, width: int, labels: int, pooling: str, *, normalize: bool = False) -> None:
        super().__init__()
        assert pooling in POOLINGS
        self.pooling, self.normalize = pooling, normalize
        self.linear = nn.Linear(pooled_width(width, pooling), labels)
        # Even chances at the start: no large first errors through the pretrained weights.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def pool(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return pool(states, attention_mask, self.pooling, normalize=self.normalize)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)  # type: ignore[no-any-return]


class ArchitectureHead:
    """The classification head of ``AutoModelForSequenceClassification``: it sees the first token, or the last of a causal model.

    Args:
        model: the model with its head; the head's weights stay where they are in it.
        backbone: its blocks.
    """

    def __init__(self, model: Any, backbone: Backbone) -> None:
        self._model, self._architecture = model, backbone.architecture

    def pool(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return last_token(states, attention_mask) if self._architecture.causal else states[:, 0]

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return self._architecture.classify(self._model, features.unsqueeze(1))


class TextClassifier(nn.Module):
    """A backbone with a head.

    Args:
        model: ``AutoModelForSequenceClassification`` with ``pooling="architecture"``, else ``AutoModel``.
        labels: number of classes.
        pooling: ``architecture`` or one of ``pooling.POOLINGS``.
        normalize: whether a pooled head sees vectors of length 1.
        layer: the block whose states a pooled head sees; None is the last. What lies above it is cut off.
    """

    def __init__(self, model: Any, labels: int, pooling: str, *, normalize: bool = False, layer: int | str | None = None) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling
        self.backbone = Backbone(model.base_model)
        if layer is not None:
            self.backbone.end_at(self.backbone.block_number(layer))
        width = self.backbone.width
        self.pooled_head = None if pooling == "architecture" else PooledHead(width, labels, pooling, normalize=normalize)
        self.head: Head = self.pooled_head or ArchitectureHead(model, self.backbone)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits, (rows, labels)."""
        return self.head.classify(self.features(batch))

    def features(self, batch: Batch) -> torch.Tensor:
        """Return what the head sees of each row, (rows, width)."""
        return self.head.pool(self.backbone.run(batch), batch["attention_mask"])

    def features_from(self, state: torch.Tensor, attention_mask: torch.Tensor, block: int) -> torch.Tensor:
        """Return what the head sees of rows whose state behind block ``block - 1`` is known, (rows, width)."""
        return self.head.pool(self.backbone.run_from(state, attention_mask, block), attention_mask)

    def sees_as(self, other: TextClassifier) -> bool:
        """Return whether both pooled heads see the same of every row, bit by bit; False where the head is the architecture's."""
        ours, theirs = self.pooled_head, other.pooled_head
        if ours is None or theirs is None or (ours.pooling, ours.normalize) != (theirs.pooling, theirs.normalize):
            return False
        mine, others = self.model.state_dict(), other.model.state_dict()
        return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return the head's weights by their names in this module."""
        keys = self.backbone.architecture.head_keys if self.pooled_head is None else ()
        prefixes = ("pooled_head.", *(f"model.{key}." for key in keys))
        return {name: parameter for name, parameter in self.named_parameters() if name.startswith(prefixes)}
