"""Fine-tune a text classifier: ``full``, ``linear_probe`` or ``probe_then_fine_tune``.

Inputs: ``base`` (one folder), ``train`` and maybe ``validation`` (folders of Parquet parts), maybe ``features`` (folders of
parts that ``feature_extract`` made of these rows and this base, for ``linear_probe``), and for ``spec.replay`` maybe ``replay``
(folders of older rows) and ``ledger`` (folders with the ledgers of the version that ``base`` is). Out: ``model/``, a plain
Hugging Face folder with passport.json and README.md, and ``ledger.parquet`` (row_key, content_key of every row trained or
selected on).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from transfer_learning.blocks import base_model, checkpoint, defaults, freezing, model_folder, numerics
from transfer_learning.blocks.adaptation import Adaptation, Data
from transfer_learning.blocks.batching import tokenize
from transfer_learning.blocks.feature_parts import lookup, read_parts
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.replay import Mixture, mix
from transfer_learning.blocks.rows import Rows, read_rows
from transfer_learning.errors import BadInput, Diverged
from transfer_learning.hashes import joined
from transfer_learning.settings import canonical_json
from transfer_learning.specs import FineTuneSpec, TaskSpec
from transfer_learning.stage import NUMERICS_VERSIONS, Inputs, Run


def fine_tune(spec: FineTuneSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Adapt a base model to labelled texts and write the model folder and the ledger.

    Returns:
        Metrics: ``train_loss``, with a validation split ``validation_loss`` and ``validation_accuracy``, ``epochs``, ``steps``,
        ``rows``, ``seconds``, ``rows_per_second`` and ``trained_weights``.

    Raises:
        BadInput: data, settings or a base model that cannot work.
        Diverged, OutOfMemory, Stopped: as the train loop.
    """
    started = time.monotonic()
    task = spec.task or TaskSpec()
    train, validation, mixture = _read(inputs, task, spec)
    run.numerics |= numerics.choose(spec.precision, run)
    folder = inputs["base"][0]
    width = int(base_model.read_config(folder).hidden_size)
    plan = defaults.resolve(spec, len(train), width, pairs=task.text_pair is not None)
    labels = _labels(train, validation, folder, plan, spec, run)
    base = base_model.load_base(folder, labels, plan.pooling, spec.seed)
    classifier = TextClassifier(base.model, len(labels), plan.pooling, normalize=spec.normalize, layer=spec.layer)
    classifier.to(run.numerics["device"])
    data, max_length = _data(spec, base, classifier, train, validation, labels)
    if inputs.get("features"):
        data = dataclasses.replace(data, features=_features(inputs["features"], classifier, train, validation, run))

    identity = _identity(spec, base, train, validation)
    snapshot = checkpoint.resume(run, identity)
    notes = numerics.repeat(snapshot.facts["numerics"], run, spec.resume_elsewhere) if snapshot else []
    freezing.freeze_below(classifier, freezing.first_trained_block(classifier, _top_blocks(spec)))
    frozen = freezing.frozen_hashes(classifier)
    checkpoints = checkpoint.Checkpoints(run, identity, spec.checkpoint_seconds)
    adaptation = Adaptation(classifier, data, spec, plan, run, checkpoints, snapshot, scratch=out.parent)
    adaptation.run_phases()
    _prove(classifier, frozen)

    metrics = _metrics(adaptation, data, time.monotonic() - started)
    passport = {
        **_facts(spec, task, run),
        "base": {**(run.facts.get("base") or {}), "license": _license(folder), "head_labels": base.head_labels},
        "settings": _settings(spec, plan, max_length, mixture),
        "label_counts": _counts(train, validation),
        "metrics": metrics,
        "frozen": _digest(frozen),
        "notes": notes,
    }
    published = model_folder.Published(
        classifier=classifier,
        tokenizer=base.tokenizer,
        labels=labels,
        max_length=max_length,
        frozen=frozenset(frozen),
        passport=passport,
    )
    model_folder.write(out / "model", published)
    model_folder.write_ledger(out / "ledger.parquet", [train, *([validation] if validation else [])])
    return metrics


def _read(inputs: Inputs, task: TaskSpec, spec: FineTuneSpec) -> tuple[Rows, Rows | None, Mixture | None]:
    """Read training rows, with a share of older ones where asked for, and validation rows.

    Raises:
        BadInput: one class, or fewer than two rows.
    """
    hashed = bool(inputs.get("features"))
    train = read_rows(inputs["train"], task, hashed=hashed)
    mixture = None
    if spec.replay is not None:
        older = read_rows(inputs["replay"], task, role="replay", hashed=hashed) if inputs.get("replay") else None
        train, mixture = mix(train, older, inputs.get("ledger", ()), spec.replay, spec.seed)
    held_out = [folder for folder in inputs.get("validation", ()) if any(folder.glob("*.parquet"))]
    validation = read_rows(held_out, task, role="validation", hashed=hashed) if held_out else None
    if len(train) < 2 or len(train.label_values) < 2:
        raise BadInput(
            "ONE_CLASS",
            f"train has {len(train)} rows, all {train.label_names[0]!r}, and learning needs two classes",
            "add rows of another class",
            column=task.label,
        )
    return train, validation, mixture


def _labels(train: Rows, validation: Rows | None, folder: Path, plan: defaults.Plan, spec: FineTuneSpec, run: Run) -> list[str]:
    """Return the labels of the head: where it grows out of this model's own version, that one's first, then the new ones.

    Raises:
        BadInput: a validation label that is none of them.
    """
    labels = train.label_names
    if spec.init_from != "base" and plan.pooling == "architecture" and _is_version_of(folder, run.facts.get("model")):
        known = list(base_model.read_config(folder).id2label.values())
        labels = [*known, *(label for label in labels if label not in known)]
    if validation and (unknown := sorted(set(validation.label_names) - set(labels))):
        raise BadInput(
            "UNKNOWN_LABEL",
            f"validation has labels that train has not: {', '.join(unknown[:5])}",
            "add training rows of these classes",
            column=(spec.task or TaskSpec()).label,
        )
    return labels


def _is_version_of(folder: Path, model: Any) -> bool:
    """Return whether the base is an earlier version of this very model."""
    passport = folder / model_folder.PASSPORT
    return passport.exists() and json.loads(passport.read_bytes()).get("model") == model


def _data(
    spec: FineTuneSpec, base: base_model.Base, classifier: TextClassifier, train: Rows, validation: Rows | None, labels: list[str]
) -> tuple[Data, int]:
    """Tokenise all rows and return them with the length that inputs are cut to."""
    limit = base.max_length
    if spec.max_length is not None and spec.max_length > limit:
        raise BadInput(
            "BAD_SETTING", f"max_length is {spec.max_length}, and the base model takes {limit} tokens", f"at most {limit}"
        )
    parts = [train, *([validation] if validation else [])]
    texts = [text for rows in parts for text in rows.texts]
    seconds = [text for rows in parts for text in rows.pairs or []] if train.pairs is not None else None
    longest = spec.max_length or limit
    tokens = tokenize(base.tokenizer, texts, seconds, longest, segments=classifier.backbone.has_segments)
    names = {label: number for number, label in enumerate(labels)}
    targets = torch.tensor([names[label] for rows in parts for label in rows.labels])
    weights = None
    if spec.class_weights == "balanced":
        counts = torch.bincount(targets[: len(train)], minlength=len(labels)).float().clamp(min=1)
        weights = len(train) / (len(labels) * counts)
    data = Data(tokens, targets, len(validation) if validation else 0, weights)
    return data, longest


def _features(
    folders: Sequence[Path], classifier: TextClassifier, train: Rows, validation: Rows | None, run: Run
) -> torch.Tensor:
    """Return the stored features of all rows, in the order of the rows.

    Raises:
        BadInput: the head trains the backbone's own layers, or a row has no features.
    """
    if classifier.pooled_head is None:
        fix = "set pooling to that of the features"
        raise BadInput("BAD_SETTING", "stored features are for a head on pooled states, and pooling is 'architecture'", fix)
    hashes = joined(rows.input_hashes for rows in (train, validation) if rows and rows.input_hashes is not None)
    width = classifier.pooled_head.linear.in_features
    return lookup(read_parts(folders, str(run.numerics["precision"])), hashes, width)


def _top_blocks(spec: FineTuneSpec) -> int | None:
    """Return how many of the top blocks the strategy ever trains; None means all."""
    if spec.strategy == "linear_probe":
        return 0
    return spec.unfreeze_blocks


def _identity(spec: FineTuneSpec, base: base_model.Base, train: Rows, validation: Rows | None) -> dict[str, str]:
    """Return what a checkpoint must share with this job: settings that decide the result, rows and base weights."""
    rows = hashlib.sha256()
    for part in (train, validation):
        for key, text, label in zip(part.row_keys, part.texts, part.labels, strict=True) if part else ():
            rows.update(key + hashlib.sha256(f"{len(text)} {text} {label}".encode()).digest())
        rows.update(b"|")
    weights = canonical_json(freezing.hashes(base.model.state_dict().items()))
    return {
        "spec": hashlib.sha256(canonical_json(spec.canonical()).encode()).hexdigest(),
        "rows": rows.hexdigest(),
        "base": hashlib.sha256(weights.encode()).hexdigest(),
        "numerics": str(NUMERICS_VERSIONS["fine_tune"]),
    }


def _prove(classifier: TextClassifier, frozen: dict[str, str]) -> None:
    """Check that what was frozen did not move and that all weights are finite.

    Raises:
        Diverged: NaN or infinity in a weight.
    """
    named = dict(classifier.named_parameters())
    moved = [name for name, digest in freezing.hashes((name, named[name]) for name in frozen).items() if digest != frozen[name]]
    assert not moved, f"frozen weights changed: {moved}"
    broken = [name for name, parameter in named.items() if not torch.isfinite(parameter).all()]
    if broken:
        raise Diverged(f"DIVERGED weights hold NaN or infinity: {', '.join(broken[:3])} — lower the rate")


def _metrics(adaptation: Adaptation, data: Data, seconds: float) -> dict[str, Any]:
    """Return the flat figures of the whole run."""
    final = adaptation.score()
    steps = sum(entry["ticks"] for entry in adaptation.finished.values() if entry.get("history"))
    epochs = {f"{name}_epochs": len(entry["history"]) for name, entry in adaptation.finished.items() if entry.get("history")}
    best = {f"{name}_best_epoch": entry["best_epoch"] for name, entry in adaptation.finished.items() if entry.get("best_epoch")}
    passes = sum(epochs.values())
    return {
        **final,
        **epochs,
        **best,
        "rows": data.rows,
        "steps": steps,
        "seconds": round(seconds, 3),
        "rows_per_second": round(data.rows * max(1, passes) / max(seconds, 1e-9), 1),
        "trained_weights": sum(p.numel() for p in adaptation.classifier.parameters() if p.requires_grad),
    }


def _digest(frozen: dict[str, str]) -> dict[str, Any]:
    """Return how many tensors did not train, and one hash over all of theirs."""
    return {"tensors": len(frozen), "sha256": hashlib.sha256(canonical_json(frozen).encode()).hexdigest()}


def _facts(spec: FineTuneSpec, task: TaskSpec, run: Run) -> dict[str, Any]:
    """Return the part of the passport that was known before training."""
    return {
        "task": task.to_dict(),
        "model": run.facts.get("model"),
        "dataset": dict(run.facts.get("dataset") or {}),
        "replay": dict(run.facts.get("replay") or {}) or None,
        "as_of": run.facts.get("as_of"),
        "strategy": spec.strategy,
        "spec": spec.to_dict(),
        "numerics": {**run.numerics, "version": NUMERICS_VERSIONS["fine_tune"]},
        "preprocessing": {"truncation": "longest_first", "padding_multiple": 8, "pairs": task.text_pair is not None},
    }


def _settings(spec: FineTuneSpec, plan: defaults.Plan, max_length: int, mixture: Mixture | None) -> dict[str, Any]:
    """Return the settings as they were used, chosen or given."""
    used = {name: getattr(plan, name) for name in ("strategy", "pooling", "batch_size")} | {"init_from": spec.init_from}
    used["replay"] = "all rows" if mixture is None else f"{spec.replay:g}: {mixture}"
    if spec.strategy != "linear_probe":
        used |= {"epochs": plan.epochs, "backbone_lr": plan.backbone_lr, "unfreeze_blocks": spec.unfreeze_blocks or "all"}
    if spec.strategy != "full":
        fitted = "logistic regression" if spec.classifier == "softmax" else "linear support vector machine"
        used["head"] = fitted if plan.to_convergence else f"{plan.head_epochs} epochs"
        used |= {"layer": spec.layer, "normalize": spec.normalize}
    fixed = ("weight_decay", "warmup", "max_grad_norm", "class_weights", "seed")
    return {**used, "head_lr": plan.head_lr, "max_length": max_length, **{name: getattr(spec, name) for name in fixed}}


def _counts(train: Rows, validation: Rows | None) -> dict[str, dict[str, int]]:
    counts = {"train": dict(Counter(train.labels))}
    return counts | ({"validation": dict(Counter(validation.labels))} if validation else {})


def _license(folder: Path) -> str | None:
    """Return the license that the base model's card names in its front matter."""
    card = folder / "README.md"
    if not card.exists():
        return None
    head = card.read_text(encoding="utf-8", errors="replace").split("---")[1:2]
    lines = [line for part in head for line in part.splitlines() if line.startswith("license:")]
    return lines[0].removeprefix("license:").strip() or None if lines else None
