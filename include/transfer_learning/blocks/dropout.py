"""Dropout whose masks are drawn four to a random number: torch draws them on one thread of the processor, one number each.

There they took a sixth of a training step. Paper: Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html
"""

from __future__ import annotations

import contextlib

import torch
from torch.nn import functional

from transfer_learning.blocks.replaced import replaced

BITS = 16
"""Random bits that decide about one value: a rate is rounded to the next of 65,536."""

plain_dropout = functional.dropout


def quick_dropout(device: str) -> contextlib.AbstractContextManager[None]:
    """Let ``torch.nn.functional.dropout``, also that of modules, be this file's, where ``device`` is the processor."""
    return replaced(dropout=dropout) if device == "cpu" else contextlib.nullcontext()


def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Set values to zero with probability ``p``, rounded to 16 bits, and scale the others so that the mean stays.

    Args:
        input: of any shape, on the processor.
        p: probability, in [0, 1].
        training: False returns the input as it is.
        inplace: as torch has it.

    Returns:
        A tensor of the input's shape and dtype. The mask follows from torch's random generator.
    """
    dropped = round(p * 2**BITS)
    if inplace or not training or not 0 < dropped < 2**BITS:
        return plain_dropout(input, p, training, inplace)
    # Four masks to each number: every bit of a whole int64 is random.
    drawn = torch.empty(-(-input.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    bits = drawn.view(torch.int16)[: input.numel()].view(input.shape)
    kept = torch.ge(bits, dropped - 2 ** (BITS - 1), out=torch.empty_like(input, requires_grad=False))
    return input * kept.mul_(2**BITS / (2**BITS - dropped))
