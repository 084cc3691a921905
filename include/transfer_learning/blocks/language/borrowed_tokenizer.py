"""The tokenizer of a base model for a model from scratch; the base's weights are not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfer_learning.blocks.base_model import quiet_library, read_any_config
from transfer_learning.blocks.base_tokenizer import read_tokenizer
from transfer_learning.errors import BadInput

READS_BOTH_SIDES = {"pad": "padding", "cls": "classification", "sep": "separator", "mask": "mask"}
NEEDED = {"gpt2": {"eos": "end-of-text"}}
"""Special tokens by role, and what messages call them; all other architectures need those of a reader of both sides."""


def borrow(folder: Path, architecture: str) -> Any:
    """Return a base model's tokenizer for another model.

    Args:
        folder: of the base model.
        architecture: ``model_type`` of the new one.

    Raises:
        BadInput: it cannot be loaded, or lacks a special token that the architecture needs.
    """
    quiet_library()
    tokenizer = read_tokenizer(folder, read_any_config(folder), pads_with_end=architecture == "gpt2")
    needed = NEEDED.get(architecture, READS_BOTH_SIDES)
    if lacking := [name for role, name in needed.items() if getattr(tokenizer, f"{role}_token_id") is None]:
        what = f"the tokenizer has no {' and no '.join(lacking)} token, and {architecture} needs it"
        raise BadInput("TOKENIZER", what, "name a base with another tokenizer, or let one be trained", file=folder)
    return tokenizer
