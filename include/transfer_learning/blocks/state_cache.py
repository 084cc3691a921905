"""The output of frozen blocks, computed once for each row and kept on disk, so that training runs the upper blocks only."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from transfer_learning.blocks.batching import Tokens, padded
from transfer_learning.blocks.devices import to_device
from transfer_learning.blocks.passes import Passes
from transfer_learning.disk import room_for
from transfer_learning.specs import FineTuneSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

SHARE_OF_FREE_DISK = 0.5
"""The rest is for checkpoints and for other tasks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Whether frozen work is stored, and why."""

    dtype: str | None
    """``float32``, ``bfloat16``, or None: computed anew in each epoch."""
    reason: str


def choose(
    spec: FineTuneSpec, *, block: int, passes: int, elements: int, precision: str, folder: Path, before: str | None = None
) -> Choice:
    """Decide whether to store the frozen blocks' output; its size is known before anything is computed.

    Args:
        spec: names the limit, and may force the choice.
        block: the lowest block that trains.
        passes: how often each row would go through the frozen blocks.
        elements: numbers to store: tokens of all rows times the width of the states.
        precision: of the arithmetic; fp32 results are not stored in bf16.
        folder: on whose disk it would lie.
        before: what a checkpoint says was chosen: ``float32``, ``bfloat16`` or ``off``.
    """
    if block < 2:
        return Choice(None, "no layer is frozen")
    if spec.state_cache == "off" or before == "off":
        return Choice(None, "switched off" if before is None else "as before the restart")
    if passes < 2 and spec.state_cache == "auto" and before is None:
        return Choice(None, "each row is run only once")
    room = min(spec.state_cache_gb * 1e9, SHARE_OF_FREE_DISK * shutil.disk_usage(folder).free)
    dtypes = [before] if before else ["float32", *(["bfloat16"] if precision == "bf16" else [])]
    sizes = {dtype: elements * DTYPES[dtype].itemsize for dtype in dtypes}
    fitting = next((dtype for dtype, size in sizes.items() if size <= room), None)
    needed = sizes[fitting] if fitting else min(sizes.values())
    fact = f"{needed / 1e9:.3g} GB for {passes} passes over {block} frozen blocks, with room for {room / 1e9:.3g} GB"
    return Choice(fitting, fact)


class StateCache:
    """The states of all rows behind one block, in a file without a name that vanishes with this process.

    Args:
        tokens: the rows; a row takes as much as it has tokens.
        width: of the states.
        dtype: ``float32`` or ``bfloat16``.
        folder: on whose disk the file lies.

    Raises:
        BadInput: the disk is full.
    """

    def __init__(self, tokens: Tokens, width: int, dtype: str, folder: Path) -> None:
        self._starts, self._dtype = tokens.starts, DTYPES[dtype]
        shape = (int(tokens.starts[-1]), width)
        needed = shape[0] * width * self._dtype.itemsize
        with room_for(folder, needed), tempfile.TemporaryFile(dir=folder) as file:
            # Reserved at once: a full disk is an error here, and a bus error in the middle of training otherwise.
            os.posix_fallocate(file.fileno(), 0, needed)
            stored = np.memmap(file, dtype=np.uint8, mode="r+", shape=(needed,))
        self._states = torch.from_numpy(stored).view(self._dtype).view(shape)

    def fill(
        self,
        compute: Callable[[Sequence[int]], torch.Tensor],
        batches: Sequence[Sequence[int]],
        passes: Passes,
        poll: Callable[[], None],
    ) -> None:
        """Store what ``compute`` gives for each batch of rows, (rows, length, width).

        Args:
            compute: called in several threads.
            batches: every row once.
            passes: how they run.
            poll: called before each batch; what it raises ends the filling.

        Raises:
            OutOfMemory: a single row does not fit.
        """
        with passes.results(compute, batches, poll) as results:
            for rows, states in zip(batches, results, strict=True):
                for row, state in zip(rows, states.to("cpu", self._dtype), strict=True):
                    start, end = self._starts[row], self._starts[row + 1]
                    self._states[start:end] = state[: end - start]

    def batch(self, rows: Sequence[int], device: str, multiple: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states in fp32, (rows, length, width), and the attention mask, (rows, length); 0 is padding."""
        lengths = [int(self._starts[row + 1] - self._starts[row]) for row in rows]
        states = torch.zeros(len(rows), padded(max(lengths), multiple), self._states.shape[1])
        mask = torch.zeros(states.shape[:2], dtype=torch.int64)
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            states[place, :length] = self._states[self._starts[row] : self._starts[row] + length]
            mask[place, :length] = 1
        return to_device(states, device), to_device(mask, device)
