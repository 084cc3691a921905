"""Which attention a model computes with: one of the library's, or plain products that keep one matrix of scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

IN_PLACE = "in_place"

EAGER_POSITIONS = 640
"""Models that take longer inputs keep the fused attention without gradients: ``eager`` holds a number for each pair of tokens."""


def attention_dropout(config: Any) -> float:
    """Return the share of the attention that training leaves out."""
    names = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
    return next((float(getattr(config, name)) for name in names if hasattr(config, name)), 0.0)


def quickest_attention(config: Any, device: str, precision: str, *, training: bool) -> str:
    """Return which of the library's attentions is quicker: ``eager``, by plain products, or ``sdpa``, the fused one.

    The fused one is on an accelerator. The processor's knows no dropout, and what stands in for it takes 1.6 times as long as
    plain products (articles of 256 tokens, two cores); in bf16 it takes 1.5 times as long and more also without gradients (rows
    of 8 to 256 tokens).

    Args:
        config: of the model.
        device: where it lies.
        precision: ``fp32`` or ``bf16``.
        training: whether dropout is on and gradients are wanted.
    """
    if device != "cpu":
        return "sdpa"
    if training:
        return "eager" if attention_dropout(config) > 0 else "sdpa"
    short = getattr(config, "max_position_embeddings", EAGER_POSITIONS + 1) <= EAGER_POSITIONS
    return "eager" if precision == "bf16" and short else "sdpa"


def quickest_frozen_attention(config: Any, device: str, precision: str) -> str:
    """Return the same for a frozen model: what is ``eager`` there can do without gradients and dropout, ``in_place``.

    A ninth of the attention's time less (256 tokens, heads of width 32).
    """
    quickest = quickest_attention(config, device, precision, training=False)
    if quickest != "eager":
        return quickest
    AttentionInterface.register(IN_PLACE, _in_place)
    AttentionMaskInterface.register(IN_PLACE, eager_mask)
    return IN_PLACE


def _in_place(
    module: nn.Module,  # noqa: ARG001
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017) of (rows, heads, length, width); its scores become its shares."""
    scores = torch.matmul(query * scaling, key.transpose(-2, -1))
    if attention_mask is not None:
        scores += attention_mask
    torch.softmax(scores, dim=-1, out=scores)
    return torch.matmul(scores, value).transpose(1, 2).contiguous(), None
