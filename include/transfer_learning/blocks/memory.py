"""What does not fit into memory is computed in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from transfer_learning.errors import OutOfMemory, is_out_of_memory


def in_halves(compute: Callable[[Sequence[int]], torch.Tensor], rows: Sequence[int]) -> torch.Tensor:
    """Return ``compute(rows)``, in halves where that does not fit: rows of equal padded length do not depend on each other.

    Raises:
        OutOfMemory: a single row does not fit.
    """
    try:
        return compute(rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if len(rows) == 1:
        raise OutOfMemory("OUT_OF_MEMORY a single row does not fit — lower max_length or use a smaller base model")
    middle = len(rows) // 2
    return torch.cat([in_halves(compute, half) for half in (rows[:middle], rows[middle:])])
