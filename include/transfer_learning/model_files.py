"""Which files of a model's folder count: weights in safetensors, configuration, vocabularies. Torch-free.

Weights in other formats, and code, are never read; a folder that has nothing else is refused with their names. Adapters alone are
a folder too; wherever they are used, the folder of their base model lies in it.
"""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

from transfer_learning.errors import BadInput

WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.txt",
    "*.model",
    "README.md",
)
"""Weights, configuration, vocabularies, SentencePiece models and the model card."""

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npz")
"""Weights that are not loaded, named so that the user knows which file to convert."""

LAYER_COUNTS = ("num_hidden_layers", "n_layers", "n_layer")
"""What ``config.json`` of BERT and its like, of DistilBERT, and of GPT-2 call the number of layers."""

ADAPTER_CONFIG = "adapter_config.json"
"""What ``peft`` reads first of a folder with adapters alone."""

ADAPTER_BASE = "base"
"""Subfolder for the model that the adapters belong to; no part of what is published."""


def holds_adapters(folder: Path) -> bool:
    """Return whether a folder holds adapters alone; a model with another one's adapters beside it is none."""
    return (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()


def layer_count(folder: Path) -> int | None:
    """Return how many layers a model has above its embeddings, by its configuration; None where that does not tell."""
    while holds_adapters(folder):
        folder = folder / ADAPTER_BASE
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = [config[name] for name in LAYER_COUNTS if name in config]
    except (OSError, ValueError, TypeError):
        return None  # who loads the model says what is wrong
    return found[0] if found and isinstance(found[0], int) else None


def is_wanted(name: str) -> bool:
    """Return whether a file belongs to a model and is of a kind that cannot run code."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in WANTED)


def model_files(folder: Path) -> list[Path]:
    """Return the wanted files below a folder, in a fixed order; hidden ones and links out of the folder are left out."""
    root = folder.resolve()
    found = (p for p in folder.rglob("*") if p.is_file() and is_wanted(p.name) and p.resolve().is_relative_to(root))
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def no_safetensors(folder: Path, uri: str | None = None) -> BadInput:
    """Return the error for a folder without safetensors weights; it names the pickled ones.

    Args:
        folder: where they were looked for.
        uri: what messages call it; None is its path.
    """
    pickled = sorted(path.name for path in folder.rglob("*") if path.suffix in PICKLED)
    found = f"only pickled weights ({', '.join(pickled[:3])})" if pickled else "no weights"
    fix = "convert them once with save_pretrained" if pickled else "name a folder with model.safetensors"
    return BadInput("NO_SAFETENSORS", f"{found}, and only safetensors are loaded", fix, file=uri or folder)
