"""How much of what a device can do a training does: model FLOPs utilisation (Chowdhery et al. 2022, appendix B)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from transfer_learning.blocks.language.generator import GENERATOR
from transfer_learning.blocks.language.model import LanguageModel

CEILINGS: tuple[tuple[str, float], ...] = (
    ("H200 NVL", 835.5e12),
    ("H200", 989.4e12),
    ("H100 NVL", 835.5e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
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


def forward_flops(model: Any, length: int) -> float:
    """Return the operations that one forward pass below the head takes: those of the matrix products alone.

    Args:
        model: the encoder, with or without a head.
        length: tokens to the row.
    """
    config = model.config
    return 2 * _matrices(model) * length + float(4 * config.num_hidden_layers * length**2 * config.hidden_size)


def training_flops(language: LanguageModel, length: int, predictions: float) -> float:
    """Return the operations that training on one block takes, forward and backward: those of the matrix products alone.

    Of ``replaced_token`` these are the generator's, which decodes the chosen tokens, and the discriminator's, which judges all.

    Args:
        language: the model.
        length: tokens to the block.
        predictions: tokens that are decoded in it.
    """
    if language.objective == "replaced_token":
        generator = getattr(language.model, GENERATOR)
        guessed = (
            forward_flops(generator, length) + 2 * _decoder(generator, generator.generator_predictions.parameters()) * predictions
        )
        told = 2 * _weights(language.model.discriminator_predictions.parameters()) * length
        return (1 + BACKWARD) * float(guessed + forward_flops(language.model, length) + told)
    decoded = 2 * _decoder(language.model, language.head_parameters().values()) * predictions
    return (1 + BACKWARD) * float(forward_flops(language.model, length) + decoded)


def _decoder(model: Any, head: Iterable[nn.Parameter]) -> float:
    """Return the weights of all matrices that a decoded token runs through."""
    return _weights(head) + float(model.get_input_embeddings().weight.numel())


def _weights(parameters: Iterable[nn.Parameter]) -> float:
    return float(sum(parameter.numel() for parameter in parameters if parameter.ndim > 1))


def _matrices(model: Any) -> float:
    """Return the weights of all matrices that a token runs through below the head, each as often as it is used."""
    config, encoder = model.config, model.base_model
    embeddings = {id(p) for module in encoder.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    repeats = config.num_hidden_layers / getattr(config, "num_hidden_groups", config.num_hidden_layers)
    total = 0.0
    for name, parameter in encoder.named_parameters():
        if parameter.ndim > 1 and id(parameter) not in embeddings:
            total += parameter.numel() * (repeats if "layer_groups" in name else 1)
    return total
