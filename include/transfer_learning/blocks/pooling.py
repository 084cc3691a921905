"""From the states of a row's tokens to one vector: without weights, and without a look at the rows beside it."""

from __future__ import annotations

import torch
from torch.nn import functional

CONCAT = ("max", "mean", "last_token")
"""What ``concat`` puts side by side (Howard & Ruder 2018), in the order that sentence-transformers has."""

POOLINGS = ("mean", "cls", "max", "last_token", "concat")


def pooled_width(width: int, pooling: str) -> int:
    """Return the length of a row's vector for states of ``width``."""
    return width * len(CONCAT) if pooling == "concat" else width


def pool(states: torch.Tensor, attention_mask: torch.Tensor, pooling: str, *, normalize: bool = False) -> torch.Tensor:
    """Return one vector for each row in fp32, (rows, width), or (rows, 3 * width) for ``concat``.

    Args:
        states: (rows, length, width).
        attention_mask: 1 for a row's own tokens, which come first, 0 for padding, (rows, length).
        pooling: one of ``POOLINGS``.
        normalize: scale each vector to length 1.
    """
    kinds = CONCAT if pooling == "concat" else (pooling,)
    vectors = torch.cat([_pool(states.float(), attention_mask, kind) for kind in kinds], dim=-1)
    return functional.normalize(vectors, dim=-1) if normalize else vectors


def last_token(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the state of each row's last own token, (rows, width); arguments as for ``pool``."""
    return states[torch.arange(len(states), device=states.device), attention_mask.sum(dim=1) - 1]


def _pool(states: torch.Tensor, attention_mask: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "cls":
        return states[:, 0]
    if kind == "last_token":
        return last_token(states, attention_mask)
    mask = attention_mask.unsqueeze(-1).to(torch.float32)
    if kind == "max":
        return states.masked_fill(mask == 0, -torch.inf).amax(dim=1)
    assert kind == "mean"
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
