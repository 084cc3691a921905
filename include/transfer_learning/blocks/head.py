"""Heads: from the last block's states to logits. Two steps, so that features of a frozen backbone are computed once."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from transfer_learning.blocks.backbone import Backbone, Batch

POOLINGS = ("mean", "cls", "max")


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
        pooling: ``mean``, ``cls`` or ``max`` over the row's own tokens.
    """

    def __init__(self, width: int, labels: int, pooling: str) -> None:
        super().__init__()
        assert pooling in POOLINGS
        self.pooling = pooling
        self.linear = nn.Linear(width, labels)
        # Even chances at the start: no large first errors through the pretrained weights.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def pool(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return states[:, 0].float()
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        if self.pooling == "max":
            return states.float().masked_fill(mask == 0, -torch.inf).amax(dim=1)
        return (states.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)  # type: ignore[no-any-return]


class ArchitectureHead:
    """The classification head of ``AutoModelForSequenceClassification``: it sees the first token.

    Args:
        model: the model with its head; the head's weights stay where they are in it.
        backbone: its blocks.
    """

    def __init__(self, model: Any, backbone: Backbone) -> None:
        self._model, self._architecture = model, backbone.architecture

    def pool(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return states[:, 0]

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return self._architecture.classify(self._model, features.unsqueeze(1))


class TextClassifier(nn.Module):
    """A backbone with a head.

    Args:
        model: ``AutoModelForSequenceClassification`` with ``pooling="architecture"``, else ``AutoModel``.
        labels: number of classes.
        pooling: ``architecture``, ``mean``, ``cls`` or ``max``.
    """

    def __init__(self, model: Any, labels: int, pooling: str) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling
        self.backbone = Backbone(model.base_model)
        self.pooled_head = None if pooling == "architecture" else PooledHead(self.backbone.width, labels, pooling)
        self.head: Head = self.pooled_head or ArchitectureHead(model, self.backbone)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits, (rows, labels)."""
        return self.head.classify(self.features(batch))

    def features(self, batch: Batch) -> torch.Tensor:
        """Return what the head sees of each row, (rows, width)."""
        return self.head.pool(self.backbone.run(batch), batch["attention_mask"])

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Return the head's weights by their names in this module."""
        keys = self.backbone.architecture.head_keys if self.pooled_head is None else ()
        prefixes = ("pooled_head.", *(f"model.{key}." for key in keys))
        return {name: parameter for name, parameter in self.named_parameters() if name.startswith(prefixes)}
