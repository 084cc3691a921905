"""Dropout whose masks are drawn four to a random number: torch draws them on one thread of the processor, one number each.

There they took a sixth of a training step. Paper: Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

BITS = 16
"""Random bits that decide about one value: a rate is rounded to the next of 65,536."""


class QuickDropout(TorchFunctionMode):
    """While it is entered, ``torch.nn.functional.dropout``, also that of modules, is ``dropout`` of this file."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``, or what stands in for it."""
        if func is functional.dropout:
            return dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def quick_dropout(device: str) -> contextlib.AbstractContextManager[object]:
    """Return the context of a training step on a device: an accelerator draws fast, and would wait for what the mode costs."""
    return QuickDropout() if device == "cpu" else contextlib.nullcontext()


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
        return functional.dropout(input, p, training, inplace)
    # Four masks to each number: every bit of a whole int64 is random.
    drawn = torch.empty(-(-input.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    bits = drawn.view(torch.int16)[: input.numel()].view(input.shape)
    kept = torch.ge(bits, dropped - 2 ** (BITS - 1), out=torch.empty_like(input, requires_grad=False))
    return input * kept.mul_(2**BITS / (2**BITS - dropped))
