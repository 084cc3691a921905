"""Which blocks train. Frozen blocks run in ``eval()``, and their weights are proven unchanged by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from transfer_learning.blocks.head import TextClassifier
from transfer_learning.errors import BadInput


def freeze_below(classifier: TextClassifier, block: int) -> dict[str, nn.Parameter]:
    """Let the head and the blocks from ``block`` on train, and nothing else; return what trains, by name.

    Args:
        classifier: the model.
        block: 0 trains every block, ``len(blocks)`` only the head.

    Raises:
        BadInput: weights are shared across this border.
    """
    backbone = classifier.backbone
    if not backbone.can_split(block):
        raise BadInput(
            "SHARED_WEIGHTS",
            f"this model shares weights between its layers and cannot be frozen below block {block}",
            "leave unfreeze_blocks empty, or use linear_probe",
        )
    chosen = {id(p) for p in classifier.head_parameters().values()}
    chosen |= {id(p) for number in range(block, len(backbone.blocks)) for p in backbone.parameters(number)}
    trained = {}
    for name, parameter in classifier.named_parameters():
        parameter.requires_grad_(id(parameter) in chosen)
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def first_trained_block(classifier: TextClassifier, top: int | None) -> int:
    """Return the lowest block that trains when the ``top`` highest do; None means all.

    Raises:
        BadInput: more blocks than the model has.
    """
    blocks = len(classifier.backbone.blocks)
    if top is not None and top > blocks:
        raise BadInput("BAD_SETTING", f"unfreeze_blocks is {top}, and the model has {blocks} blocks", f"at most {blocks}")
    return 0 if top is None else blocks - top


def set_modes(classifier: TextClassifier) -> None:
    """Put what trains in training mode and what is frozen in evaluation mode: no dropout in frozen blocks."""
    classifier.train()
    for block in classifier.backbone.blocks:
        for module in block:
            module.train(any(parameter.requires_grad for parameter in module.parameters()))


def hashes(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Return the sha256 of each tensor's bytes."""
    return {name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in named}


def frozen_hashes(classifier: TextClassifier) -> dict[str, str]:
    """Return the sha256 of every weight that does not train."""
    return hashes((name, p) for name, p in classifier.named_parameters() if not p.requires_grad)


def _bytes(tensor: torch.Tensor) -> bytes:
    # A view as bytes works for every type, bfloat16 too, which NumPy does not have.
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
