"""Pretrain a model: on plain text by ``masked_lm``, maybe on pairs, ``causal_lm`` or ``replaced_token``, or ``supervised``.

Inputs: ``train`` and maybe ``unlabelled`` (folders of Parquet parts, whose labels are not read), maybe ``validation`` (for the
figures alone), and ``base`` (one folder) unless ``spec.architecture`` names what starts from scratch with a tokenizer of its own.
``supervised`` reads the labels of ``train`` and ``validation``, and nothing ``unlabelled``. Out: ``model/``, a plain Hugging Face
folder with passport.json and README.md, and ``ledger.parquet`` (row_key, content_key of every row trained on).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transfer_learning.blocks import checkpoint, classification, defaults, model_folder, numerics, passport, source_task
from transfer_learning.blocks.adaptation import Adaptation
from transfer_learning.blocks.base_tokenizer import length_within
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.language.corpus import Corpus, read_corpus
from transfer_learning.blocks.language.examples import make_examples
from transfer_learning.blocks.language.folder import write
from transfer_learning.blocks.language.objectives import LanguageExamples, perplexity
from transfer_learning.blocks.language.packing import refuse_less_than_one
from transfer_learning.blocks.language.pretraining import Plan, Pretraining, resolve
from transfer_learning.blocks.language.start import start_classifier, start_language
from transfer_learning.blocks.ledger import write_ledger
from transfer_learning.blocks.rows import part_files, read_rows, refuse_one_class
from transfer_learning.hashes import texts_digest
from transfer_learning.specs import PretrainSpec, TaskSpec
from transfer_learning.stage import Inputs, Run

ROLES = ("train", "unlabelled")


def pretrain(spec: PretrainSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Train a model, by its objective, and write the model folder and the ledger.

    Returns:
        Metrics, which name what was learned, from what, and how fast; see ``_learn_language`` and ``_learn_labels``.

    Raises:
        BadInput: rows, settings, a tokenizer or a base model that cannot work.
        Diverged, OutOfMemory, Stopped: as the train loop.
    """
    learn = _learn_labels if spec.objective == "supervised" else _learn_language
    return learn(spec, inputs, out, run)


def _learn_language(spec: PretrainSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Train a language model on documents.

    Returns:
        Metrics: ``train_loss`` and ``train_perplexity`` of the last epoch, with a validation split ``validation_loss`` and
        ``validation_perplexity``, ``documents``, ``empty_documents``, ``blocks``, ``tokens``, ``vocabulary``, ``parameters``,
        ``steps``, ``epochs``, ``seconds``, ``tokens_per_second`` and, where the device's ceiling is known, ``flops_utilisation``.
    """
    started = time.monotonic()
    task = spec.task or TaskSpec()
    folders = [folder for role in ROLES for folder in inputs.get(role, ())]
    corpus = read_corpus(folders, task, role=" and ".join(ROLES))
    run.numerics |= numerics.choose(spec.precision, run)
    rows = texts_digest(part_files(folders), task.texts())
    start = start_language(spec, inputs, corpus, rows, run)
    numerics.repeat(start.snapshot, run, spec.resume_elsewhere)
    language = start.model
    length = length_within(spec.max_length, language.max_length, language.tokenizer, pairs=spec.sentences is not None)
    language.model.to(run.numerics["device"])

    def examples(documents: Corpus) -> LanguageExamples:
        return make_examples(spec, language, documents, length, run)

    training = examples(corpus)
    if spec.sentences is None:
        refuse_less_than_one(training.blocks)
    held_out = inputs.get("validation", ())
    validation = examples(read_corpus(held_out, task, role="validation")) if any(map(_has_parts, held_out)) else None
    plan = resolve(spec, len(training.blocks), new_head=language.new_head)
    checkpoints = checkpoint.Checkpoints(run, start.identity, spec.checkpoint_seconds)
    pretraining = Pretraining(language, training, validation, spec, plan, run, checkpoints, start.snapshot, start.kept)
    pretraining.run_phases()

    metrics = _metrics(pretraining, corpus, time.monotonic() - started)
    told = {
        **_told(spec, inputs, task, run),
        "architecture": language.kind,
        "settings": _settings(spec, plan, length),
        "metrics": metrics,
        "notes": numerics.notes(run),
    }
    longest = length if spec.architecture else language.max_length
    write(out / "model", language, longest, told)
    write_ledger(out / "ledger.parquet", [corpus.rows])
    return metrics


def _learn_labels(spec: PretrainSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Train a classifier on the labels of a source task.

    Returns:
        Metrics: ``train_loss`` of the last epoch, with a validation split ``validation_loss`` and ``validation_accuracy``,
        ``rows``, ``vocabulary``, ``parameters``, ``steps``, ``epochs``, ``seconds`` and ``rows_per_second``.
    """
    started = time.monotonic()
    task, tuning = spec.task or TaskSpec(), source_task.as_fine_tuning(spec)
    train = read_rows(inputs.get("train", ()), task)
    held_out = [folder for folder in inputs.get("validation", ()) if _has_parts(folder)]
    validation = read_rows(held_out, task, role="validation") if held_out else None
    refuse_one_class(train, task)
    labels = train.label_names
    classification.refuse_unknown_labels(validation, labels, task.label)
    run.numerics |= numerics.choose(spec.precision, run)
    start = start_classifier(spec, inputs, train, validation, run)
    base = start.model
    numerics.repeat(start.snapshot, run, spec.resume_elsewhere)
    classifier = TextClassifier(base.model, len(labels), "architecture")
    classifier.to(run.numerics["device"])
    data, length = classification.tokenized(tuning, base, classifier, train, validation, labels)
    plan = defaults.resolve(tuning, train.labels, classifier.backbone.width, pairs=task.text_pair is not None)
    checkpoints = checkpoint.Checkpoints(run, start.identity, spec.checkpoint_seconds)
    adaptation = Adaptation(classifier, data, tuning, plan, run, checkpoints, start.snapshot, out.parent, start.kept)
    adaptation.run_phases()
    classification.refuse_broken(classifier)

    found = classification.metrics(adaptation, data, time.monotonic() - started)
    found["pretrain_epochs"] = found.pop("fine_tune_epochs")
    found["vocabulary"] = len(base.tokenizer)
    found["parameters"] = sum(parameter.numel() for parameter in classifier.parameters())
    told = {
        **_told(spec, inputs, task, run),
        "preprocessing": {"truncation": "longest_first", "padding_multiple": 8, "pairs": task.text_pair is not None},
        "architecture": str(base.model.config.model_type),
        "settings": source_task.settings(spec, plan, length),
        "label_counts": passport.label_counts(train, validation),
        "metrics": found,
        "frozen": passport.digest({}),
        "notes": numerics.notes(run),
    }
    longest = length if spec.architecture else base.max_length
    published = model_folder.Published(
        classifier=classifier, tokenizer=base.tokenizer, labels=labels, max_length=longest, frozen=frozenset(), passport=told
    )
    model_folder.write(out / "model", published)
    write_ledger(out / "ledger.parquet", [train])
    return found


def _told(spec: PretrainSpec, inputs: Inputs, task: TaskSpec, run: Run) -> dict[str, Any]:
    """Return the part of the passport that was known before training."""
    known = {**passport.facts("pretrain", spec, task, run), "strategy": spec.objective, "base": {"license": None}}
    base = dict(run.facts.get("base") or {})
    if spec.tokenizer == "base":
        return known | {"tokenizer": base}
    return known | {"base": {**base, "license": passport.license_of(inputs["base"][0]) if inputs.get("base") else None}}


def _has_parts(folder: Path) -> bool:
    return any(folder.glob("*.parquet"))


def _metrics(pretraining: Pretraining, corpus: Corpus, seconds: float) -> dict[str, Any]:
    """Return the flat figures of the whole run."""
    finished, blocks = pretraining.finished, pretraining.examples.blocks
    last = finished["pretrain"]["history"][-1]
    language = pretraining.language
    found: dict[str, Any] = dict(last)
    if language.tokens_alone:
        found["train_perplexity"] = perplexity(last["train_loss"])
    found |= {f"{name}_epochs": len(entry["history"]) for name, entry in finished.items()}
    found |= {
        "documents": blocks.documents,
        "empty_documents": corpus.empty,
        "blocks": len(blocks),
        "tokens": blocks.tokens,
        "vocabulary": len(language.tokenizer),
        "parameters": sum(parameter.numel() for parameter in language.published_parameters().values()),
        "steps": sum(entry["ticks"] for entry in finished.values()),
        "seconds": round(seconds, 3),
    }
    if pretraining.blocks_per_second is not None:
        pace = pretraining.figures(last["train_loss"], pretraining.blocks_per_second)
        found |= {name: round(value, 4) for name, value in pace.items() if name != "perplexity"}
    return found


def _settings(spec: PretrainSpec, plan: Plan, length: int) -> dict[str, Any]:
    """Return the settings as they were used, chosen or given."""
    used: dict[str, Any] = {"objective": spec.objective, "start": spec.architecture or "the base model", "block_length": length}
    used |= {name: getattr(plan, name) for name in ("epochs", "batch_size", "learning_rate")}
    if plan.head_epochs:
        used |= {"head_epochs": plan.head_epochs, "head_lr": plan.head_lr}
    if spec.sentences is not None:
        used["sentences"] = spec.sentences
    if spec.objective != "causal_lm":
        used["masked_share"] = spec.masked_share
    return used | {name: getattr(spec, name) for name in ("weight_decay", "warmup", "max_grad_norm", "seed")}
