"""Running a frozen model over rows: each result depends on its own row alone, so that stored ones equal fresh ones.

On an accelerator that holds but for rounding: its libraries multiply batches of different sizes in different ways.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from transfer_learning.blocks.attention import quickest_frozen_attention
from transfer_learning.blocks.backbone import Backbone, Batch
from transfer_learning.blocks.devices import to_device
from transfer_learning.blocks.passes import TOKEN_BUDGET, Passes
from transfer_learning.blocks.pooling import pool
from transfer_learning.blocks.replaced import replaced

plain_layer_norm = functional.layer_norm


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A frozen backbone with the layers and the pooling that are asked of it.

    Args:
        backbone: in evaluation mode, on its device.
        blocks: whose states are pooled, side by side in this order.
        pooling: one of ``pooling.POOLINGS``.
        normalize: scale each vector to length 1.
    """

    backbone: Backbone
    blocks: tuple[int, ...]
    pooling: str
    normalize: bool

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the features of a batch, fp32 (rows, width)."""
        states = self.backbone.states(batch, self.blocks)
        vectors = [pool(state, batch["attention_mask"], self.pooling, normalize=self.normalize) for state in states]
        return torch.cat(vectors, dim=-1)


def arithmetic(device: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a model computes in ``fp32`` or ``bf16``; open over many batches, it casts weights once."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


@dataclasses.dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer's weight as it is and as oneDNN multiplies by it, and its bias in bf16."""

    weight: torch.Tensor
    """Kept, so that its id stays its own."""
    laid_out: torch.Tensor
    bias: torch.Tensor | None


@contextlib.contextmanager
def frozen_passes(model: Any, device: str, precision: str) -> Iterator[Passes]:
    """Enter how the features of a frozen model are computed: with the quickest attention and arithmetic there.

    In bf16 on the processor the states stay in bf16 behind each LayerNorm too, where autocast makes them fp32, which takes a
    fifth of the time away; the lowest cosine with features in fp32 is 0.9999 (MiniLM, BBC News). All of it depends on the model
    alone and not on the rows.

    Args:
        model: of ``transformers``, in evaluation mode.
        device: where it lies.
        precision: ``fp32`` or ``bf16``.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(quickest_frozen_attention(model.config, device, precision))
    try:
        with replaced(**_narrow(device, precision)):
            yield Passes(device, functools.partial(arithmetic, device, precision))
    finally:
        model.set_attn_implementation(before)


def _narrow(device: str, precision: str) -> dict[str, Callable[..., torch.Tensor]]:
    """Return functions by which states are bf16 throughout and weights are laid out once, where the processor multiplies bf16."""
    if device != "cpu" or precision != "bf16":
        return {}
    packs = bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]
    return {"layer_norm": _narrow_layer_norm} | ({"linear": functools.partial(_packed_linear, {})} if packs else {})


def _narrow_layer_norm(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Take and give bf16; the sums stay in fp32."""
    with torch.autocast("cpu", enabled=False):
        return plain_layer_norm(input.bfloat16(), *args, **kwargs)


def _packed_linear(
    packed: dict[int, PackedLinear], input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply by a weight that oneDNN has packed, where autocast casts and packs it each time: the same bits, 8% less time.

    Args:
        packed: by the id of the weight; filled at its first use.
        input: as of ``torch.nn.functional.linear``.
        weight: as there.
        bias: as there.
    """
    if id(weight) not in packed:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), TOKEN_BUDGET)
        packed[id(weight)] = PackedLinear(weight, laid_out, None if bias is None else bias.detach().bfloat16())
    found = packed[id(weight)]
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input.bfloat16(), found.laid_out, found.bias, "none", [], "")
    return product


def extract(
    compute: Callable[[Sequence[int]], torch.Tensor],
    batches: Sequence[Sequence[int]],
    passes: Passes,
    poll: Callable[[int, Callable[[], torch.Tensor]], None],
    done: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what ``compute`` gives for each row, in the order of the rows, on the CPU.

    Args:
        compute: from row numbers to one result for each; called in several threads.
        batches: every row once.
        passes: how they run.
        poll: called before each batch, and while it is waited for, with the number of batches done and what returns the results
            so far, of which there must be one; what it raises ends the extraction.
        done: results of the first rows, as ``poll`` was told them.

    Raises:
        OutOfMemory: a single row does not fit.
    """
    order = to_device(torch.tensor([row for rows in batches for row in rows]), passes.device)
    features, count = torch.empty(0), 0

    def keep(found: torch.Tensor) -> None:
        nonlocal features, count
        if count == 0:
            features = found.new_empty((len(order), *found.shape[1:]), device=passes.device)
        features[order[count : count + len(found)]] = found.to(passes.device)
        count += len(found)

    if done is not None:
        keep(done)
    left = _without_first(batches, count)
    waiting = len(left)

    def tell() -> None:
        poll(len(batches) - waiting, lambda: features[order[:count]].cpu())

    with passes.results(compute, left, tell) as results:
        for found in results:
            keep(found)
            waiting -= 1
    return features.cpu()  # once, at the end: a copy of each batch would make an accelerator wait


def _without_first(batches: Sequence[Sequence[int]], count: int) -> list[Sequence[int]]:
    """Return the batches without their first ``count`` rows."""
    left = []
    for rows in batches:
        if count < len(rows):
            left.append(rows[count:])
        count = max(0, count - len(rows))
    return left
