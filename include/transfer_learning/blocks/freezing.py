"""Which blocks train, and when. Frozen blocks run in ``eval()``, and their weights are proven unchanged by hash."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from transfer_learning.blocks import lora
from transfer_learning.blocks.backbone import Backbone
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.errors import BadInput
from transfer_learning.specs import FineTuneSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """A phase that trains the head and the blocks from one on."""

    name: str
    block: int
    """The lowest block that trains."""
    epochs: int


def stages(strategy: str, blocks: int, lowest: int, epochs: int) -> list[Stage]:
    """Return the phases of a strategy that train blocks, in order; the last is ``fine_tune``.

    ``gradual_unfreeze`` adds one block with each epoch, from the top, until all that ever train do (Howard & Ruder 2018).

    Args:
        strategy: its name.
        blocks: how many the model has, embeddings included.
        lowest: the lowest block that ever trains.
        epochs: of the last phase.
    """
    rising = range(blocks - 1, lowest, -1) if strategy == "gradual_unfreeze" else ()
    return [*(Stage(f"top_{blocks - block}", block, 1) for block in rising), Stage("fine_tune", lowest, epochs)]


def lowest_block(classifier: TextClassifier, spec: FineTuneSpec) -> int:
    """Return the lowest block that ever trains: all, the top ``unfreeze_blocks``, or none, which is the number of blocks.

    Raises:
        BadInput: more blocks than the model has.
    """
    blocks, top = len(classifier.backbone.blocks), spec.unfreeze_blocks
    if spec.strategy == "linear_probe":
        return blocks
    if top is not None and top > blocks:
        raise BadInput("BAD_SETTING", f"unfreeze_blocks is {top}, and the model has {blocks} blocks", f"at most {blocks}")
    # The embeddings have no attention that could be adapted.
    return max(int(spec.strategy == "lora"), 0 if top is None else blocks - top)


def freeze_below(classifier: TextClassifier, block: int) -> dict[str, nn.Parameter]:
    """Let the head and the blocks from ``block`` on train, and nothing else; return what trains, by name.

    Args:
        classifier: the model; where it has adapters, these train in place of the blocks' own weights.
        block: 0 trains every block, ``len(blocks)`` only the head.

    Raises:
        BadInput: weights are shared across this border.
    """
    backbone = classifier.backbone
    if not backbone.can_split(block):
        raise BadInput(
            "SHARED_WEIGHTS",
            f"this model shares weights between its layers and cannot be frozen below block {block}",
            "use strategy 'full', 'linear_probe', or 'probe_then_fine_tune' of all blocks",
        )
    named = dict(classifier.named_parameters())
    adapters = {id(parameter) for name, parameter in named.items() if lora.is_adapter(name)}
    chosen = {id(p) for number in range(block, len(backbone.blocks)) for p in backbone.parameters(number)}
    chosen = (chosen & adapters if adapters else chosen) | {id(p) for p in classifier.head_parameters().values()}
    for parameter in named.values():
        parameter.requires_grad_(id(parameter) in chosen)
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}


def block_numbers(backbone: Backbone) -> dict[int, int]:
    """Return the block of each weight, by its ``id``; of a weight that several layers share, the last."""
    return {id(parameter): number for number in range(len(backbone.blocks)) for parameter in backbone.parameters(number)}


def refuse_shared(classifier: TextClassifier) -> None:
    """Check that every layer has weights of its own, so that it can have a rate of its own.

    Raises:
        BadInput: layers share weights.
    """
    if not all(classifier.backbone.can_split(block) for block in range(len(classifier.backbone.blocks))):
        what = "this model shares weights between its layers, and layer_decay gives each a rate of its own"
        raise BadInput("SHARED_WEIGHTS", what, "leave layer_decay out")


def set_modes(classifier: TextClassifier) -> None:
    """Put what trains in training mode and what is frozen in evaluation mode: no dropout in frozen blocks."""
    classifier.train()
    for number, block in enumerate(classifier.backbone.blocks):
        trains = any(parameter.requires_grad for parameter in classifier.backbone.parameters(number))
        for module in block:
            module.train(trains)


def hashes(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Return the sha256 of each tensor's bytes."""
    return {name: _sha256(tensor) for name, tensor in named}


def frozen_hashes(classifier: TextClassifier) -> dict[str, str]:
    """Return the sha256 of every weight that does not train."""
    return hashes((name, p) for name, p in classifier.named_parameters() if not p.requires_grad)


def moved(classifier: TextClassifier, before: Mapping[str, str]) -> list[str]:
    """Return the names of the weights whose sha256 is not what it was before."""
    named = dict(classifier.named_parameters())
    return [name for name, digest in hashes((name, named[name]) for name in before).items() if digest != before[name]]


@contextlib.contextmanager
def still(classifier: TextClassifier) -> Iterator[None]:
    """Check behind a phase that what was frozen in it did not move."""
    before = frozen_hashes(classifier)
    yield
    assert not (changed := moved(classifier, before)), f"frozen weights changed: {changed}"


def _sha256(tensor: torch.Tensor) -> str:
    # A view as bytes works for every type, bfloat16 too, which NumPy does not have.
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
