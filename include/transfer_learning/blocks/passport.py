"""What the passport of a trained model tells: what was asked for, what was used, and what it was made of."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from transfer_learning.blocks.defaults import Plan
from transfer_learning.blocks.model_folder import PASSPORT
from transfer_learning.blocks.replay import Mixture
from transfer_learning.blocks.rows import Rows
from transfer_learning.blocks.safe_loading import read_json
from transfer_learning.settings import Settings, canonical_json
from transfer_learning.specs import FineTuneSpec, TaskSpec
from transfer_learning.stage import NUMERICS_VERSIONS, Run

FENCE = "---"
"""Line before and behind the front matter of a card."""

LONGEST_LICENSE = 200
"""Characters; more is none."""


def read(folder: Path) -> dict[str, Any]:
    """Return the passport of a model's folder, empty where it has none.

    Raises:
        BadInput: it is no JSON object.
    """
    path = folder / PASSPORT
    return read_json(path) if path.exists() else {}


def is_of_source_task(made: Mapping[str, Any]) -> bool:
    """Return whether a model was pretrained on the labels of a source task.

    What starts from it takes the backbone alone, also where labels happen to have the same names.
    """
    return made.get("strategy") == "supervised"


def digest(frozen: dict[str, str]) -> dict[str, Any]:
    """Return how many tensors did not train, and one hash over all of theirs."""
    return {"tensors": len(frozen), "sha256": hashlib.sha256(canonical_json(frozen).encode()).hexdigest()}


def facts(stage: str, spec: Settings, task: TaskSpec, run: Run) -> dict[str, Any]:
    """Return the part of any trained model's passport that was known before training."""
    return {
        "task": task.to_dict(),
        "model": run.facts.get("model"),
        "dataset": dict(run.facts.get("dataset") or {}),
        "as_of": run.facts.get("as_of"),
        "spec": spec.to_dict(),
        "numerics": {**run.numerics, "version": NUMERICS_VERSIONS[stage]},
    }


def settings(spec: FineTuneSpec, plan: Plan, max_length: int, mixture: Mixture | None) -> dict[str, Any]:
    """Return the settings as they were used, chosen or given."""
    used = {name: getattr(plan, name) for name in ("strategy", "pooling", "batch_size")} | {"init_from": spec.init_from}
    if spec.train_rows is not None:
        used["train_rows"] = f"{spec.train_rows:,}, drawn by seed"
    used["replay"] = "all rows" if mixture is None else f"{spec.replay:g}: {mixture}"
    if spec.strategy != "linear_probe":
        used |= {"epochs": plan.epochs, "backbone_lr": plan.backbone_lr, "unfreeze_blocks": spec.unfreeze_blocks or "all"}
        used |= {"layer_decay": plan.layer_decay, "schedule": spec.schedule}
        if plan.pace < 1 and None in (spec.epochs, spec.backbone_lr):
            used["pace"] = f"{plan.pace:.2g} of the base's rate and steps, for the share of rows that is new"
    if spec.strategy == "lora":
        used |= {name: getattr(spec, name) for name in ("lora_rank", "lora_alpha", "lora_merge")}
    if plan.has_head_phase:
        fitted = "logistic regression" if spec.classifier == "softmax" else "linear support vector machine"
        used["head"] = fitted if plan.to_convergence else f"{plan.head_epochs} epochs"
        used |= {"layer": spec.layer, "normalize": spec.normalize}
    fixed = ("weight_decay", "warmup", "max_grad_norm", "class_weights", "seed")
    return {**used, "head_lr": plan.head_lr, "max_length": max_length, **{name: getattr(spec, name) for name in fixed}}


def label_counts(train: Rows, validation: Rows | None) -> dict[str, dict[str, int]]:
    """Return the number of rows of each label, by split."""
    counts = {"train": dict(Counter(train.labels))}
    return counts | ({"validation": dict(Counter(validation.labels))} if validation else {})


def license_of(folder: Path) -> str | None:
    """Return the license that the base model's card names in its front matter, or several; None where it cannot be read."""
    card = folder / "README.md"
    if not card.exists():
        return None
    first, *lines = card.read_text(encoding="utf-8-sig", errors="replace").splitlines() or [""]
    if first.strip() != FENCE or FENCE not in (ends := [line.rstrip() for line in lines]):
        return None
    try:
        # The base loader makes strings, lists and tables of what it reads, and nothing else.
        fields = yaml.load("\n".join(lines[: ends.index(FENCE)]), yaml.BaseLoader)  # noqa: S506 - not an unsafe one
    except (yaml.YAMLError, RecursionError):
        return None
    named = fields.get("license") if isinstance(fields, dict) else None
    names = [name for name in (named if isinstance(named, list) else [named]) if isinstance(name, str) and name]
    return ", ".join(names)[:LONGEST_LICENSE] or None
