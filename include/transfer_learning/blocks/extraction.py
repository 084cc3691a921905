"""Running a frozen model over rows: each result depends on its own row alone, so that stored ones equal fresh ones."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from transfer_learning.blocks.attention import quickest_frozen_attention
from transfer_learning.blocks.backbone import Backbone, Batch
from transfer_learning.blocks.passes import TOKEN_BUDGET, Passes
from transfer_learning.blocks.pooling import pool


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
        yield Passes(device, functools.partial(_frozen_arithmetic, device, precision, {}))
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def _frozen_arithmetic(device: str, precision: str, packed: dict[int, PackedLinear]) -> Iterator[None]:
    narrow = _Narrow(packed) if device == "cpu" and precision == "bf16" else contextlib.nullcontext()
    with arithmetic(device, precision), narrow:
        yield


class _Narrow(TorchFunctionMode):
    """While it is entered, states are bf16 throughout and weights are laid out once, on a processor that multiplies bf16.

    ``torch.nn.functional.layer_norm`` takes and gives bf16; its sums stay in fp32. ``torch.nn.functional.linear`` takes weights
    that oneDNN has packed, where autocast casts and packs them for each batch: the same bits in 8% less time.

    Args:
        packed: by the id of the weight; filled at its first use.
    """

    def __init__(self, packed: dict[int, PackedLinear]) -> None:
        super().__init__()
        self._packed = packed
        self._packs = bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.linear and self._packs and not kwargs:
            return self._linear(*args)
        if func is functional.layer_norm:
            with torch.autocast("cpu", enabled=False):
                return func(args[0].bfloat16(), *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _linear(self, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if id(weight) not in self._packed:
            laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), TOKEN_BUDGET)
            self._packed[id(weight)] = PackedLinear(weight, laid_out, None if bias is None else bias.detach().bfloat16())
        found = self._packed[id(weight)]
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states.bfloat16(), found.laid_out, found.bias, "none", [], "")
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
    order = torch.tensor([row for rows in batches for row in rows])
    features, count = torch.empty(0), 0

    def keep(found: torch.Tensor) -> None:
        nonlocal features, count
        if count == 0:
            features = found.new_empty((len(order), *found.shape[1:]))
        features[order[count : count + len(found)]] = found.to(features.device)
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
