"""ELECTRA's generator: it stands below the discriminator, in memory and in the published folder, and shares its embeddings.

Clark et al. 2020. Published it is a folder of its own, shared weights included, so that either loads without the other.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from transfer_learning.blocks.base_model import check_weights, load_weights, read_any_config
from transfer_learning.blocks.model_folder import write_config, write_weights
from transfer_learning.blocks.safe_loading import check_files
from transfer_learning.errors import BadInput

GENERATOR = "generator"
"""Name below the discriminator, and of the folder."""

SHARE = 4
"""The generator is as deep as the discriminator, and a fourth as wide (Clark et al. 2020, table 1)."""

SHARED_SIZES = ("model_type", "vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size")
"""What must be alike where embeddings are shared."""


def add_generator(model: Any, folder: Path | None, seed: int) -> bool:
    """Give a discriminator its generator, that embeds tokens and positions by the very same tables.

    Args:
        model: the discriminator.
        folder: that it was loaded from, which may hold its generator; None where it started from scratch.
        seed: of a new generator.

    Returns:
        Whether the generator is a new one.

    Raises:
        BadInput: one that does not belong to this discriminator, or as ``base_model.load_base``.
    """
    stored = None if folder is None else folder / GENERATOR
    is_new = stored is None or not (stored / "config.json").exists()
    generator = _new(model.config, seed) if stored is None or is_new else _load(stored, model.config, seed)
    theirs, ours = generator.base_model.embeddings, model.base_model.embeddings
    theirs.word_embeddings, theirs.position_embeddings = ours.word_embeddings, ours.position_embeddings
    theirs.token_type_embeddings = ours.token_type_embeddings
    generator.generator_lm_head.weight = ours.word_embeddings.weight
    model.add_module(GENERATOR, generator)
    return is_new


def write_generator(folder: Path, model: Any) -> str:
    """Write a discriminator's generator below its folder, for ``AutoModelForMaskedLM``; return the file of its weights."""
    own = folder / GENERATOR
    own.mkdir()
    generator = getattr(model, GENERATOR)
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in generator.named_parameters()}
    write_config(own, generator)
    return f"{GENERATOR}/{write_weights(own, weights, frozen=set())}"


def _new(config: Any, seed: int) -> Any:
    config = copy.deepcopy(config)
    config.num_attention_heads = max(1, config.num_attention_heads // SHARE)
    width = config.hidden_size // SHARE
    config.hidden_size = max(1, width // config.num_attention_heads) * config.num_attention_heads
    config.intermediate_size = max(1, config.intermediate_size // SHARE)
    torch.manual_seed(seed)
    return AutoModelForMaskedLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]


def _load(folder: Path, discriminator: Any, seed: int) -> Any:
    config = read_any_config(folder)
    if other := [name for name in SHARED_SIZES if getattr(config, name, None) != getattr(discriminator, name)]:
        what = f"the generator has another {' and '.join(other)} than the discriminator above it"
        raise BadInput("WRONG_KEYS", what, "use both of the same training, or none", file=folder / "config.json")
    check_files(folder)
    check_weights(folder)
    generator, _ = load_weights(AutoModelForMaskedLM, folder, config, seed, lambda *_: False)
    return generator
