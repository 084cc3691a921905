"""Running a frozen model over rows: each result depends on its own row alone, so that stored ones equal fresh ones."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from transfer_learning.blocks.backbone import Backbone, Batch, quickest_attention
from transfer_learning.blocks.batching import Tokens, length_batches
from transfer_learning.blocks.pooling import pool
from transfer_learning.blocks.train_loop import in_halves

TOKEN_BUDGET = 2048
"""Padded tokens to one forward pass: what lies between two layers then stays in the processor's cache."""

CUDA_TOKEN_BUDGET = 65_536
"""On an accelerator, which small batches leave idle."""


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A frozen backbone with the layers and the pooling that are asked of it.

    Args:
        backbone: in evaluation mode, on its device.
        blocks: whose states are pooled, side by side in this order.
        pooling: one of ``pooling.POOLINGS``.
        normalize: scale each vector to length 1.
        device: where the backbone lies.
    """

    backbone: Backbone
    blocks: tuple[int, ...]
    pooling: str
    normalize: bool
    device: str

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the features of a batch, fp32 (rows, width)."""
        states = self.backbone.states(batch, self.blocks)
        vectors = [pool(state, batch["attention_mask"], self.pooling, normalize=self.normalize) for state in states]
        return torch.cat(vectors, dim=-1)


def arithmetic(device: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a model computes in ``fp32`` or ``bf16``; open over many batches, it casts weights once."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def frozen_passes(model: Any, device: str, precision: str) -> Iterator[None]:
    """Enter the context in which the features of a frozen model are computed: the quickest attention and arithmetic there.

    In bf16 on the processor the states stay in bf16 behind each LayerNorm too, where autocast makes them fp32. With ``eager``
    attention that takes a fifth of the time away; the lowest cosine with features in fp32 is 0.9999 (MiniLM, BBC News). All of
    it depends on the model alone and not on the rows.

    Args:
        model: of ``transformers``, in evaluation mode.
        device: where it lies.
        precision: ``fp32`` or ``bf16``.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(quickest_attention(model.config, device, precision, training=False))
    narrow = _LowPrecisionLayerNorm() if device == "cpu" and precision == "bf16" else contextlib.nullcontext()
    try:
        with arithmetic(device, precision), narrow:
            yield
    finally:
        model.set_attn_implementation(before)


class _LowPrecisionLayerNorm(TorchFunctionMode):
    """While it is entered, ``torch.nn.functional.layer_norm`` takes and gives bf16; its sums stay in fp32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not functional.layer_norm:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(args[0].bfloat16(), *args[1:], **(kwargs or {}))


def batches_of(tokens: Tokens, device: str) -> list[list[int]]:
    """Return the rows of each batch in the order they are run: rows of one padded length, under a budget of tokens."""
    return length_batches(tokens.lengths, CUDA_TOKEN_BUDGET if device == "cuda" else TOKEN_BUDGET)


def extract(
    compute: Callable[[Sequence[int]], torch.Tensor],
    batches: Sequence[Sequence[int]],
    poll: Callable[[int, Callable[[], torch.Tensor]], None],
    done: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what ``compute`` gives for each row, in the order of the rows, on the CPU.

    Args:
        compute: from row numbers to one result for each.
        batches: every row once.
        poll: called before each batch with the number of batches done and what returns the results so far, of which there must be
            one; what it raises ends the extraction.
        done: results of the first batches, as ``poll`` was told them.

    Raises:
        OutOfMemory: a single row does not fit.
    """
    parts = [] if done is None else [done]
    rows_done = 0 if done is None else len(done)
    with torch.inference_mode():
        for number, (rows, end) in enumerate(zip(batches, itertools.accumulate(map(len, batches)), strict=True)):
            if rows_done >= end:
                continue
            poll(number, lambda: torch.cat(parts).cpu())
            parts.append(in_halves(compute, rows))
            rows_done = end
    found = torch.cat(parts).cpu()  # one copy at the end: a copy of each batch would make an accelerator wait
    ordered = torch.empty_like(found)
    ordered[[row for rows in batches for row in rows]] = found
    return ordered
