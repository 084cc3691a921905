"""Low-rank adapters (Hu et al. 2021), through ``peft``: trained beside frozen weights, and maybe merged into them afterwards.

A weight ``W`` of the attention's query and value becomes ``W + alpha / rank * B A``, where ``B`` starts at zero: before the first
step the model is the base. Only ``A`` and ``B`` train, with the head. In GPT-2 query, key and value are one weight, with one
adapter, as in ``peft``.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from transfer_learning.blocks.head import TextClassifier
from transfer_learning.errors import BadInput

ADAPTED = ".base_layer."
"""Stands in the name of a frozen weight that has adapters beside it."""


def attach(classifier: TextClassifier, block: int, rank: int, alpha: float, seed: int) -> None:
    """Add adapters to the attention of the layers from ``block`` on.

    Args:
        classifier: the model; changed in place.
        block: the lowest block that gets any; at least 1, since the embeddings have no attention.
        rank: of the product of both matrices.
        alpha: the product counts ``alpha / rank`` times.
        seed: of the start values.

    Raises:
        BadInput: a rank that no adapted weight can have.
    """
    from peft import LoraConfig, inject_adapter_in_model  # a second that no other strategy needs

    backbone = classifier.backbone
    # A layer that stands twice shares its weights, and then its adapters too.
    layers = list({id(layer): layer for layer, *_ in backbone.blocks[block:]}.values())
    _check_rank(layers, backbone.architecture.query_and_value, rank)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=list(backbone.architecture.query_and_value),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in backbone.encoder.modules()),
    )
    torch.manual_seed(seed)
    for layer in layers:
        inject_adapter_in_model(config, layer)


def _check_rank(layers: list[nn.Module], adapted: tuple[str, ...], rank: int) -> None:
    """Refuse what would fill the memory and express nothing more than the weights' own shape allows."""
    modules = (module for layer in layers for name, module in layer.named_modules() if name.rpartition(".")[2] in adapted)
    largest = min(min(module.weight.shape) for module in modules)
    if rank > largest:
        what = f"lora_rank is {rank}, and no change of the weights that are adapted has a rank above {largest}"
        raise BadInput("BAD_SETTING", what, f"at most {largest}")


def is_adapter(name: str) -> bool:
    """Return whether a weight of this name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def is_attached(classifier: TextClassifier) -> bool:
    """Return whether adapters stand beside the model's weights."""
    return any(is_adapter(name) for name, _ in classifier.named_parameters())


def merge(classifier: TextClassifier) -> None:
    """Add every adapter to the weight it stands beside, which then has its old name again.

    On the processor, wherever the classifier lies: the last bits are those of a merge of the published adapters.
    """
    from peft.tuners.lora import LoraLayer

    device = next(classifier.parameters()).device
    classifier.cpu()
    for module in list(classifier.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(module, name, child.get_base_layer())
    classifier.to(device)
