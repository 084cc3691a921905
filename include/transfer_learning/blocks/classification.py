"""What fine-tuning and supervised pretraining share: labelled rows as a classifier learns them, and what its training gave."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import torch

from transfer_learning.blocks.adaptation import Adaptation
from transfer_learning.blocks.base_model import Base
from transfer_learning.blocks.base_tokenizer import length_within
from transfer_learning.blocks.batching import tokenize
from transfer_learning.blocks.examples import Data
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import BadInput, Diverged
from transfer_learning.specs import FineTuneSpec


def refuse_unknown_labels(validation: Rows | None, labels: list[str], column: str | None) -> None:
    """Check that the head can give every label that it is judged by.

    Raises:
        BadInput: a validation label that is none of them.
    """
    if validation and (unknown := sorted(set(validation.label_names) - set(labels))):
        raise BadInput(
            "UNKNOWN_LABEL",
            f"validation has labels that train has not: {', '.join(unknown[:5])}",
            "add training rows of these classes",
            column=column,
        )


def tokenized(
    spec: FineTuneSpec, base: Base, classifier: TextClassifier, train: Rows, validation: Rows | None, labels: list[str]
) -> tuple[Data, int]:
    """Tokenise all rows and return them with the length that inputs are cut to.

    Raises:
        BadInput: a length beyond what the model can, or too short for any text.
    """
    longest = length_within(spec.max_length, base.max_length, base.tokenizer, pairs=train.pairs is not None)
    parts = [train, *([validation] if validation else [])]
    texts = [text for rows in parts for text in rows.texts]
    seconds = [text for rows in parts for text in rows.pairs or []] if train.pairs is not None else None
    tokens = tokenize(base.tokenizer, texts, seconds, longest, segments=classifier.backbone.has_segments)
    names = {label: number for number, label in enumerate(labels)}
    targets = torch.tensor([names[label] for rows in parts for label in rows.labels])
    weights = None
    if spec.class_weights == "balanced":
        counts = torch.bincount(targets[: len(train)], minlength=len(labels)).float().clamp(min=1)
        weights = len(train) / (len(labels) * counts)
    data = Data(tokens, targets, len(validation) if validation else 0, weights)
    return data, longest


def rows_digest(train: Rows, validation: Rows | None) -> str:
    """Return the sha256 over row keys, texts and labels, in order."""
    found = hashlib.sha256()
    for part in (train, validation):
        for key, text, label in zip(part.row_keys, part.texts, part.labels, strict=True) if part else ():
            found.update(key + hashlib.sha256(f"{len(text)} {text} {label}".encode()).digest())
        found.update(b"|")
    return found.hexdigest()


def refuse_broken(classifier: TextClassifier) -> None:
    """Check that all weights are finite.

    Raises:
        Diverged: NaN or infinity in a weight.
    """
    broken = [name for name, parameter in classifier.named_parameters() if not torch.isfinite(parameter).all()]
    if broken:
        raise Diverged(f"DIVERGED weights hold NaN or infinity: {', '.join(broken[:3])} — lower the rate")


def metrics(adaptation: Adaptation, data: Data, seconds: float) -> dict[str, Any]:
    """Return the flat figures of the whole run."""
    final = adaptation.score()
    steps = sum(entry["ticks"] for entry in adaptation.finished.values() if entry.get("history"))
    epochs: Counter[str] = Counter()
    for name, entry in adaptation.finished.items():
        if entry.get("history"):
            epochs["unfreezing_epochs" if name.startswith("top_") else f"{name}_epochs"] += len(entry["history"])
    best = {
        f"{name}_best_epoch": entry["best_epoch"]
        for name, entry in adaptation.finished.items()
        if entry.get("best_epoch") and not name.startswith("top_")
    }
    passes = sum(epochs.values())
    return {
        **final,
        **epochs,
        **best,
        "rows": data.rows,
        "steps": steps,
        "seconds": round(seconds, 3),
        "rows_per_second": round(data.rows * max(1, passes) / max(seconds, 1e-9), 1),
    }
