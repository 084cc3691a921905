"""Fine-tune a text classifier, by any strategy of ``FineTuneSpec``.

Inputs: ``base`` (one folder), ``train`` and maybe ``validation`` (folders of Parquet parts), maybe ``features`` (folders of
parts that ``feature_extract`` made of these rows and this base, for ``linear_probe``), for ``spec.replay`` maybe ``replay``
(folders of older rows), ``ledger`` where ``base`` is an earlier version (folders with its ledgers), and for strategy ``auto``
maybe ``base_ledger`` (the same of any version, of whatever model). Out: ``model/``, a plain Hugging Face folder, or one of
adapters alone for ``peft``, with passport.json and README.md, and ``ledger.parquet`` (row_key, content_key of every row trained
or selected on).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from transfer_learning.blocks import (
    base_model,
    checkpoint,
    classification,
    defaults,
    freezing,
    lora,
    model_folder,
    numerics,
    passport,
)
from transfer_learning.blocks.adaptation import Adaptation
from transfer_learning.blocks.choice import Choice, settle
from transfer_learning.blocks.feature_parts import lookup, read_parts
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.ledger import write_ledger
from transfer_learning.blocks.replay import Mixture, mix, new_share
from transfer_learning.blocks.rows import Rows, read_rows, refuse_one_class
from transfer_learning.blocks.sampling import stratified
from transfer_learning.errors import BadInput
from transfer_learning.hashes import joined
from transfer_learning.settings import canonical_json
from transfer_learning.specs import FineTuneSpec, TaskSpec
from transfer_learning.stage import Inputs, Run


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
    train, validation, mixture, new = _read(inputs, task, spec)
    run.numerics |= numerics.choose(spec.precision, run)
    folder = inputs["base"][0]
    asked = spec
    spec, choice = settle(asked, folder, train, inputs.get("base_ledger", ()), run)
    width = int(base_model.read_config(folder).hidden_size)
    made = passport.read(folder)
    known = _known_labels(made, folder, run.facts.get("model")) if spec.goes_on else []
    if made.get("model_format") == "sentence_transformers" or not set(train.label_names) <= set(known):
        new = 1.0  # the head, or some label of it, starts from nothing
    plan = defaults.resolve(spec, train.labels, width, pairs=task.text_pair is not None, new_share=new)
    labels = _labels(train, validation, plan, task, known)
    base = _load(folder, labels, plan.pooling, spec, new_head=passport.is_of_source_task(made))
    classifier = TextClassifier(base.model, len(labels), plan.pooling, normalize=spec.normalize, layer=spec.layer)
    classifier.to(run.numerics["device"])
    data, length = classification.tokenized(spec, base, classifier, train, validation, labels)
    if inputs.get("features"):
        data = dataclasses.replace(data, features=_features(inputs["features"], classifier, train, validation, run))

    identity = checkpoint.identity_of("fine_tune", asked, classification.rows_digest(train, validation), base.model)
    identity |= {"choice": canonical_json(choice.to_dict())} if choice else {}
    snapshot = checkpoint.resume(run, identity)
    numerics.repeat(snapshot, run, spec.resume_elsewhere)
    frozen = _freeze(classifier, spec, plan)
    checkpoints = checkpoint.Checkpoints(run, identity, spec.checkpoint_seconds)
    adaptation = Adaptation(classifier, data, spec, plan, run, checkpoints, snapshot, scratch=out.parent)
    adaptation.run_phases()
    trained = sum(parameter.numel() for parameter in classifier.parameters() if parameter.requires_grad)
    if spec.strategy == "lora" and spec.lora_merge:
        lora.merge(classifier)
    _prove(classifier, frozen)

    metrics = classification.metrics(adaptation, data, time.monotonic() - started) | {"trained_weights": trained}
    told = {
        **_told(asked, spec.strategy, choice, base, inputs, run),
        "settings": passport.settings(spec, plan, length, mixture),
        "label_counts": passport.label_counts(train, validation),
        "metrics": metrics,
        "frozen": passport.digest(frozen),
        "notes": numerics.notes(run),
    }
    published = model_folder.Published(
        classifier=classifier, tokenizer=base.tokenizer, labels=labels, max_length=length, frozen=frozenset(frozen), passport=told
    )
    model_folder.write(out / "model", published)
    write_ledger(out / "ledger.parquet", [train, *([validation] if validation else [])])
    return metrics


def _read(inputs: Inputs, task: TaskSpec, spec: FineTuneSpec) -> tuple[Rows, Rows | None, Mixture | None, float]:
    """Read training rows, with a share of older ones where asked for, and validation rows; tell what share of them is new.

    Raises:
        BadInput: one class, or fewer than two rows.
    """
    hashed = bool(inputs.get("features"))
    train = read_rows(inputs["train"], task, hashed=hashed)
    held_out = [folder for folder in inputs.get("validation", ()) if any(folder.glob("*.parquet"))]
    validation = read_rows(held_out, task, role="validation", hashed=hashed) if held_out else None
    ledgers = inputs.get("ledger", ())
    mixture, new = None, new_share(train, ledgers)
    if spec.replay is not None:
        older = read_rows(inputs["replay"], task, role="replay", hashed=hashed) if inputs.get("replay") else None
        train, mixture = mix(train, older, ledgers, spec.replay, spec.seed, validation)
    elif spec.train_rows is not None:
        train = stratified(train, spec.train_rows, spec.seed)
    refuse_one_class(train, task)
    return train, validation, mixture, new


def _known_labels(made: Mapping[str, Any], folder: Path, model: Any) -> list[str]:
    """Return the labels of a base that is an earlier version of this very model; what was pretrained has none to keep."""
    is_version = bool(made.get("labels")) and made.get("model") == model and not passport.is_of_source_task(made)
    return base_model.labels_of(base_model.read_config(folder)) if is_version else []


def _labels(train: Rows, validation: Rows | None, plan: defaults.Plan, task: TaskSpec, known: Sequence[str]) -> list[str]:
    """Return the labels of the head: where it grows out of this model's own version, that one's first, then the new ones.

    Raises:
        BadInput: a validation label that is none of them.
    """
    labels = train.label_names
    if known and plan.pooling == "architecture":
        labels = [*known, *(label for label in labels if label not in known)]
    classification.refuse_unknown_labels(validation, labels, task.label)
    return labels


def _load(folder: Path, labels: list[str], pooling: str, spec: FineTuneSpec, *, new_head: bool) -> base_model.Base:
    if spec.init_from == "scratch":
        return base_model.untrained(folder, spec.seed, labels, pooling)
    return base_model.load_base(folder, labels, pooling, spec.seed, new_head=new_head)


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
    return lookup(read_parts(folders, run, str(run.numerics["precision"])), hashes, width)


def _freeze(classifier: TextClassifier, spec: FineTuneSpec, plan: defaults.Plan) -> dict[str, str]:
    """Prepare what the strategy trains; return the sha256 of every weight that it will leave as it is.

    Raises:
        BadInput: a strategy that this model's shared weights do not allow, or adapters of a rank that its weights do not.
    """
    if plan.layer_decay != 1:
        freezing.refuse_shared(classifier)
    lowest = freezing.lowest_block(classifier, spec)
    if spec.strategy == "lora":
        lora.attach(classifier, lowest, spec.lora_rank, spec.lora_alpha, spec.seed)
    freezing.freeze_below(classifier, lowest)
    frozen = freezing.frozen_hashes(classifier)
    return {name: digest for name, digest in frozen.items() if not (spec.lora_merge and lora.ADAPTED in name)}


def _told(
    spec: FineTuneSpec, strategy: str, choice: Choice | None, base: base_model.Base, inputs: Inputs, run: Run
) -> dict[str, Any]:
    """Return the part of the passport that was known before training; ``strategy`` is what ``auto`` chose."""
    task = spec.task or TaskSpec()
    license_of_base = passport.license_of(inputs["base"][0])
    return {
        **passport.facts("fine_tune", spec, task, run),
        "strategy": strategy,
        **({"choice": choice.to_dict()} if choice else {}),
        "replay": dict(run.facts.get("replay") or {}) or None,
        "preprocessing": {"truncation": "longest_first", "padding_multiple": 8, "pairs": task.text_pair is not None},
        "base": {**(run.facts.get("base") or {}), "license": license_of_base, "head_labels": base.head_labels},
    }


def _prove(classifier: TextClassifier, frozen: dict[str, str]) -> None:
    """Check that what was frozen did not move and that all weights are finite.

    Raises:
        Diverged: NaN or infinity in a weight.
    """
    assert not (moved := freezing.moved(classifier, frozen)), f"frozen weights changed: {moved}"
    classification.refuse_broken(classifier)
