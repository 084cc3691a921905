"""The classification head of a base model: which of its weights are the head's, starting it anew, and growing it by labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from transfer_learning.blocks import adapter_folder
from transfer_learning.blocks.backbone import architecture_of
from transfer_learning.errors import BadInput


def is_head(key: str, model: Any) -> bool:
    """Whether a key belongs to the classification head, or to a pooler, which stands above the last block."""
    inner = key.removeprefix(f"{model.base_model_prefix}.")
    return inner.startswith("pooler.") or key.startswith(architecture_of(model.config).head_keys)


def start(model: Any, seed: int, *, pretrained_pooler: bool) -> None:
    """Initialise the head from scratch, but for a pooler that the base brings."""
    generator = torch.Generator().manual_seed(seed)
    scale = float(getattr(model.config, "initializer_range", 0.02))
    keep = (f"{model.base_model_prefix}.pooler.",) if pretrained_pooler else ()
    for name, parameter in model.named_parameters():
        if is_head(name, model) and not name.startswith(keep or ("\0",)):
            nn.init.normal_(parameter, std=scale, generator=generator) if parameter.ndim > 1 else nn.init.zeros_(parameter)


def grow(model: Any, folder: Path, output: str, known: list[str], labels: list[str], seed: int) -> None:
    """Give each label that the base's head knows its own row of weights, by name, and each new one a row from scratch.

    Args:
        model: whose head has as many rows as there are labels.
        folder: with the weights of the base's head.
        output: name of the module whose rows are labels.
        known: label names of the base's head, in order.
        labels: label names in order.
        seed: of the new rows.

    Raises:
        BadInput: the folder lacks the head's weights.
    """
    new = [place for place, label in enumerate(labels) if label not in known]
    generator = torch.Generator().manual_seed(seed)
    scale = float(getattr(model.config, "initializer_range", 0.02))
    with torch.no_grad():
        for name, parameter in model.get_submodule(output).named_parameters():
            stored = _stored_tensor(folder, f"{output}.{name}")
            rows = [stored[known.index(label)] if label in known else torch.zeros_like(stored[0]) for label in labels]
            parameter.copy_(torch.stack(rows))
            if parameter.ndim > 1 and new:
                parameter[new] = torch.randn(len(new), parameter.shape[1], generator=generator) * scale


def _stored_tensor(folder: Path, name: str) -> torch.Tensor:
    """Return one tensor of the files, fp32."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as weights:
            for key in (name, f"{adapter_folder.PREFIX}{name}"):
                if key in weights.keys():  # noqa: SIM118 - not a dict
                    return weights.get_tensor(key).float()  # type: ignore[no-any-return]
    raise BadInput("WRONG_KEYS", f"there is no tensor {name!r}", "copy the model again", file=folder)
