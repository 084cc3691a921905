"""Merge adapters into their base: one plain model, which loads without ``peft`` and needs nothing beside it.

Inputs: ``model`` (one folder of adapters alone, with that of their base in it as ``base``). Out: ``model/``, a plain Hugging Face
folder with passport.json and README.md: its weights are those that training with ``lora_merge`` would have published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfer_learning.blocks import adapter_folder, model_folder
from transfer_learning.blocks.base_model import load_base
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.predict import read_passport, refuse_missing_head
from transfer_learning.errors import BadInput
from transfer_learning.settings import Settings
from transfer_learning.stage import Inputs, Run

NOTE = "merged from adapters that were published alone"


def merge(spec: Settings, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:  # noqa: ARG001
    """Write the merged model; there is nothing to set.

    Returns:
        Metrics: ``merged``, the number of weights that are others than the base's.

    Raises:
        BadInput: no adapters, damaged ones, or such as do not fit their base.
    """
    folder = inputs["model"][0]
    passport = read_passport(folder)
    if passport is None or passport["model_format"] != "adapter":
        raise BadInput("NO_ADAPTERS", "there are no adapters to merge", "name a folder of format 'adapter'", file=folder)
    labels = passport["labels"]
    base, changed = load_base(folder, labels, "architecture", seed=0), adapter_folder.changed(folder)
    refuse_missing_head(folder, base, labels)
    published = model_folder.Published(
        classifier=TextClassifier(base.model, len(labels), "architecture"),
        tokenizer=base.tokenizer,
        labels=labels,
        max_length=passport["max_length"],
        frozen=frozenset(base.model.state_dict().keys() - changed),
        passport={name: value for name, value in passport.items() if name not in model_folder.OWN}
        | {"notes": [*passport.get("notes", ()), NOTE]},
    )
    model_folder.write(out / "model", published)
    return {"merged": len(changed)}
