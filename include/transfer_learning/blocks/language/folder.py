"""Writing a published language model: a plain Hugging Face folder with its passport and card. Safetensors only, no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer_learning.blocks.language import card
from transfer_learning.blocks.language.generator import GENERATOR, write_generator
from transfer_learning.blocks.language.model import LanguageModel
from transfer_learning.blocks.model_folder import FORMAT, PASSPORT, write_configs, write_json, write_weights


def write(folder: Path, language: LanguageModel, max_length: int, passport: Mapping[str, Any]) -> None:
    """Write the whole folder; it must not exist.

    Args:
        folder: receives it.
        language: the trained model and its tokenizer.
        max_length: longest input in tokens that the tokenizer is published with.
        passport: everything of it but ``format``, ``model_format``, ``labels``, ``max_length``, ``mask`` and ``heads``.
    """
    folder.mkdir(parents=True)
    # Without the second names of tied weights: a library ties them again, and safetensors refuses them.
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in language.published_parameters().items()}
    file = write_weights(folder, weights, frozen=set())
    write_configs(folder, language.model, language.tokenizer, max_length)
    heads = [{"name": "language_model", "kind": language.objective, "file": file}]
    heads += [{"name": "pairs", "kind": language.sentences, "file": file}] if language.sentences else []
    if language.objective == "replaced_token":
        heads.append({"name": GENERATOR, "kind": "masked_lm", "file": write_generator(folder, language.model)})
    whole = {
        "format": FORMAT,
        "model_format": "transformers",
        "labels": [],
        "max_length": max_length,
        "mask": language.tokenizer.mask_token,
        "heads": heads,
        **passport,
    }
    write_json(folder / PASSPORT, whole)
    (folder / "README.md").write_text(card.render(whole), encoding="utf-8")
