"""How much of what a device can do a training does: model FLOPs utilisation (Chowdhery et al. 2022, appendix B)."""

from __future__ import annotations

from torch import nn

from transfer_learning.blocks.language.model import LanguageModel

CEILINGS: tuple[tuple[str, float], ...] = (
    ("H200", 989.4e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
)
"""(part of a device's name, bf16 operations a second without sparsity), from the makers' data sheets; the first that fits."""

BACKWARD = 2.0
"""The backward pass costs twice the forward one: gradients of the inputs and of the weights."""


def ceiling(device_name: str, precision: str) -> float | None:
    """Return how many operations a second a device can do, where that is known."""
    if precision != "bf16":
        return None
    return next((most for name, most in CEILINGS if name in device_name), None)


def training_flops(language: LanguageModel, length: int, predictions: float) -> float:
    """Return the operations that training on one block takes, forward and backward: those of the matrix products alone.

    Args:
        language: the model.
        length: tokens to the block.
        predictions: tokens that are decoded in it.
    """
    config, head = language.model.config, language.head_parameters()
    layers = config.num_hidden_layers
    own = sum(p.numel() for p in head.values() if p.ndim > 1) + language.model.get_input_embeddings().weight.numel()
    attention = 4 * layers * length**2 * config.hidden_size
    return (1 + BACKWARD) * float(2 * _matrices(language) * length + attention + 2 * own * predictions)


def _matrices(language: LanguageModel) -> float:
    """Return the weights of all matrices that a token runs through below the head, each as often as it is used."""
    config, encoder = language.model.config, language.model.base_model
    embeddings = {id(p) for module in encoder.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    repeats = config.num_hidden_layers / getattr(config, "num_hidden_groups", config.num_hidden_layers)
    total = 0.0
    for name, parameter in encoder.named_parameters():
        if parameter.ndim > 1 and id(parameter) not in embeddings:
            total += parameter.numel() * (repeats if "layer_groups" in name else 1)
    return total
