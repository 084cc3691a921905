"""Where pretraining starts, in order: its own checkpoint, the base model, from scratch with the base's or a new tokenizer."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any, Generic, TypeVar

from tokenizers import Tokenizer

from transfer_learning.blocks import checkpoint, classification, source_task
from transfer_learning.blocks.base_model import Base, load_base
from transfer_learning.blocks.language import model
from transfer_learning.blocks.language.borrowed_tokenizer import borrow
from transfer_learning.blocks.language.corpus import Corpus
from transfer_learning.blocks.language.model import LanguageModel
from transfer_learning.blocks.language.tokenizer_training import train_tokenizer, wrapped
from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import BadInput
from transfer_learning.settings import canonical_json
from transfer_learning.specs import PretrainSpec
from transfer_learning.specs.architectures import FAMILIES
from transfer_learning.stage import Inputs, Run

M = TypeVar("M", LanguageModel, Base)


@dataclasses.dataclass(frozen=True, slots=True)
class Started(Generic[M]):
    """A model, and where its training goes on."""

    model: M
    identity: dict[str, str]
    """What a checkpoint must share with this job: settings that decide the result, rows, base weights or tokenizer."""
    snapshot: checkpoint.Snapshot | None
    """Whose weights are loaded over those of the model."""
    kept: dict[str, Any]
    """What every checkpoint keeps: a tokenizer that was trained here."""


def start_language(spec: PretrainSpec, inputs: Inputs, corpus: Corpus, rows: str, run: Run) -> Started[LanguageModel]:
    """Load the base with its language-model head, or build the architecture.

    Args:
        spec: names an architecture, or continues the base.
        inputs: maybe with ``base``.
        corpus: that a tokenizer is trained on.
        rows: digest of the corpus.
        run: maybe with a checkpoint to go on from.

    Raises:
        BadInput: no base to continue, one that cannot work or is not wanted, or the checkpoint of another job.
        Stopped: the job was asked to stop.
    """
    if spec.architecture is None:
        language = model.from_base(_base_of(inputs), spec.objective, spec.seed, spec.sentences)
        identity = checkpoint.identity_of("pretrain", spec, rows, language.model)
        return Started(language, identity, checkpoint.resume(run, identity), {})
    identity = checkpoint.identity_of("pretrain", spec, rows)
    snapshot, tokenizer, kept = _start_tokenizer(spec, inputs, corpus, identity, run)
    return Started(model.from_scratch(spec, tokenizer, _positions(spec)), identity, snapshot, kept)


def start_classifier(spec: PretrainSpec, inputs: Inputs, train: Rows, validation: Rows | None, run: Run) -> Started[Base]:
    """Load the base with its head for the labels that it knows, since their task goes on, or build the architecture.

    Args:
        spec: as of ``start_language``.
        inputs: as of ``start_language``.
        train: labelled rows, whose texts a tokenizer is trained on.
        validation: maybe more labelled rows.
        run: as of ``start_language``.

    Raises:
        BadInput: as ``start_language``.
        Stopped: as ``start_language``.
    """
    rows = classification.rows_digest(train, validation)
    if spec.architecture is None:
        base = load_base(_base_of(inputs), train.label_names, "architecture", spec.seed)
        identity = checkpoint.identity_of("pretrain", spec, rows, base.model)
        return Started(base, identity, checkpoint.resume(run, identity), {})
    identity = checkpoint.identity_of("pretrain", spec, rows)
    snapshot, tokenizer, kept = _start_tokenizer(spec, inputs, Corpus(train, 0), identity, run)
    return Started(source_task.from_scratch(spec, train.label_names, tokenizer, _positions(spec)), identity, snapshot, kept)


def _base_of(inputs: Inputs) -> Path:
    if not inputs.get("base"):
        raise BadInput("NO_BASE", "there is nothing to continue from", "name a base model, or an architecture from scratch")
    return inputs["base"][0]


def _positions(spec: PretrainSpec) -> int:
    """Return the longest input in tokens of an architecture from scratch."""
    return max(FAMILIES[str(spec.architecture)].positions, spec.max_length or 0)


def _start_tokenizer(
    spec: PretrainSpec, inputs: Inputs, corpus: Corpus, identity: dict[str, str], run: Run
) -> tuple[checkpoint.Snapshot | None, Any, dict[str, Any]]:
    """Return where training goes on, the tokenizer from there or a new one, and what further checkpoints keep of it.

    A borrowed tokenizer is added to ``identity``.
    """
    architecture = str(spec.architecture)
    if spec.tokenizer == "base":
        if not inputs.get("base"):
            raise BadInput("NO_BASE", "the tokenizer shall be that of the base model, and there is none", "name a base model")
        tokenizer = borrow(inputs["base"][0], architecture)
        known = canonical_json({"tokens": tokenizer.get_vocab(), "special": tokenizer.all_special_tokens})
        identity["tokenizer"] = hashlib.sha256(known.encode()).hexdigest()
        return checkpoint.resume(run, identity), tokenizer, {}
    if inputs.get("base"):
        what = f"architecture is {architecture!r}, which starts from scratch, and there is a base model"
        raise BadInput("BAD_SETTING", what, "leave it out, or set tokenizer to 'base'")
    snapshot = checkpoint.resume(run, identity)
    if snapshot is None:
        run.progress(phase="tokenizer", documents=len(corpus))
        poll = functools.partial(checkpoint.end_before_training, run)
        inner = train_tokenizer(architecture, corpus.documents, spec.vocab_size, poll)
    else:
        inner = Tokenizer.from_str(snapshot.facts["tokenizer"])
    return snapshot, wrapped(architecture, inner, _positions(spec)), {"tokenizer": inner.to_str()}
