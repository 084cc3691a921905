"""Pretrain a language model on plain text: ``masked_lm``, maybe on pairs, ``causal_lm`` or ``replaced_token``.

Inputs: ``train`` and maybe ``unlabelled`` (folders of Parquet parts, whose labels are not read), maybe ``validation`` (for the
perplexity alone), and ``base`` (one folder) unless ``spec.architecture`` names what starts from scratch. Out: ``model/``, a plain
Hugging Face folder with passport.json and README.md, and ``ledger.parquet`` (row_key, content_key of every row trained on).
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from transfer_learning.blocks import checkpoint, freezing, numerics
from transfer_learning.blocks.language.corpus import Corpus, read_corpus
from transfer_learning.blocks.language.folder import write
from transfer_learning.blocks.language.model import LanguageModel, from_base, from_scratch
from transfer_learning.blocks.language.objectives import (
    MASKED,
    RANDOM,
    Draw,
    LanguageExamples,
    PairedExamples,
    frame_of,
    learnable,
    masked,
    next_token,
    perplexity,
    vocabulary_of,
)
from transfer_learning.blocks.language.packing import Blocks, pack, refuse_less_than_one, token_lists
from transfer_learning.blocks.language.pretraining import Plan, Pretraining, resolve
from transfer_learning.blocks.language.replaced_token import ALL_HIDDEN, ReplacedExamples
from transfer_learning.blocks.language.sentences import pair_up, sentence_lists
from transfer_learning.blocks.language.tokenizer_training import train_tokenizer, wrapped
from transfer_learning.blocks.model_folder import write_ledger
from transfer_learning.blocks.passport import facts, license_of
from transfer_learning.blocks.rows import part_files
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.hashes import texts_digest
from transfer_learning.settings import canonical_json
from transfer_learning.specs import PretrainSpec, TaskSpec
from transfer_learning.specs.architectures import FAMILIES
from transfer_learning.stage import NUMERICS_VERSIONS, Inputs, Run

ROLES = ("train", "unlabelled")


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A language model, and where its training goes on."""

    language: LanguageModel
    identity: dict[str, str]
    """What a checkpoint must share with this job: settings that decide the result, documents and base weights."""
    snapshot: checkpoint.Snapshot | None
    kept: dict[str, Any]
    """What every checkpoint keeps: a tokenizer that was trained here."""


def pretrain(spec: PretrainSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Train a language model on documents and write the model folder and the ledger.

    Returns:
        Metrics: ``train_loss`` and ``train_perplexity`` of the last epoch, with a validation split ``validation_loss`` and
        ``validation_perplexity``, ``documents``, ``empty_documents``, ``blocks``, ``tokens``, ``vocabulary``, ``parameters``,
        ``steps``, ``epochs``, ``seconds``, ``tokens_per_second`` and, where the device's ceiling is known, ``flops_utilisation``.

    Raises:
        BadInput: documents, settings, a tokenizer or a base model that cannot work.
        Diverged, OutOfMemory, Stopped: as the train loop.
    """
    started = time.monotonic()
    task = spec.task or TaskSpec()
    folders = [folder for role in ROLES for folder in inputs.get(role, ())]
    corpus = read_corpus(folders, task, role=" and ".join(ROLES))
    run.numerics |= numerics.choose(spec.precision, run)
    rows = texts_digest(part_files(folders), task.texts())
    start = _start(spec, inputs, corpus, rows, run)
    notes = numerics.repeat(start.snapshot.facts["numerics"], run, spec.resume_elsewhere) if start.snapshot else []
    language = start.language
    length = _block_length(spec, language)
    language.model.to(run.numerics["device"])

    def examples(documents: Corpus) -> LanguageExamples:
        return _examples(spec, language, documents, length, run)

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
    passport = {
        **facts("pretrain", spec, task, run),
        "strategy": spec.objective,
        "architecture": language.kind,
        "base": {**(run.facts.get("base") or {}), "license": license_of(inputs["base"][0]) if inputs.get("base") else None},
        "settings": _settings(spec, plan, length),
        "metrics": metrics,
        "notes": notes,
    }
    longest = length if spec.architecture else language.max_length
    write(out / "model", language, longest, passport)
    write_ledger(out / "ledger.parquet", [corpus.rows])
    return metrics


def _start(spec: PretrainSpec, inputs: Inputs, corpus: Corpus, rows: str, run: Run) -> Started:
    """Load the base, or build the architecture with a tokenizer of its own: that of the checkpoint, or a new one."""
    poll = _poll(run)
    identity = {
        "spec": hashlib.sha256(canonical_json(spec.canonical()).encode()).hexdigest(),
        "rows": rows,
        "numerics": str(NUMERICS_VERSIONS["pretrain"]),
    }
    if spec.architecture is None:
        if not inputs.get("base"):
            raise BadInput("NO_BASE", "there is nothing to continue from", "name a base model, or an architecture from scratch")
        language = from_base(inputs["base"][0], spec.objective, spec.seed, spec.sentences)
        weights = canonical_json(freezing.hashes(language.model.state_dict().items()))
        identity["base"] = hashlib.sha256(weights.encode()).hexdigest()
        return Started(language, identity, checkpoint.resume(run, identity), {})
    if inputs.get("base"):
        what = f"architecture is {spec.architecture!r}, which starts from scratch, and there is a base model"
        raise BadInput("BAD_SETTING", what, "leave one of the two out")
    snapshot = checkpoint.resume(run, identity)
    if snapshot is None:
        run.progress(phase="tokenizer", documents=len(corpus))
        inner = train_tokenizer(spec.architecture, corpus.documents, spec.vocab_size, poll)
    else:
        inner = Tokenizer.from_str(snapshot.facts["tokenizer"])
    kept = {"tokenizer": inner.to_str()}
    longest = max(FAMILIES[spec.architecture].positions, spec.max_length or 0)
    tokenizer = wrapped(spec.architecture, inner, longest)
    return Started(from_scratch(spec, tokenizer, longest), identity, snapshot, kept)


def _block_length(spec: PretrainSpec, language: LanguageModel) -> int:
    if spec.max_length is not None and spec.max_length > language.max_length:
        what = f"max_length is {spec.max_length}, and the base model takes {language.max_length} tokens"
        raise BadInput("BAD_SETTING", what, f"at most {language.max_length}")
    return spec.max_length or language.max_length


def _examples(spec: PretrainSpec, language: LanguageModel, corpus: Corpus, length: int, run: Run) -> LanguageExamples:
    """Tokenise documents, lay them out as packed blocks or as pairs, and say what is predicted in them."""
    run.progress(phase="tokens", documents=len(corpus))
    tokenizer, frame, poll = language.tokenizer, frame_of(language), _poll(run)
    device, precision = str(run.numerics["device"]), str(run.numerics["precision"])
    if spec.sentences is not None:
        pairs = pair_up(sentence_lists(tokenizer, corpus.documents(), poll), length, frame, spec.sentences, spec.seed)
        blocks, draw = _masking(spec, language, pairs)
        return PairedExamples(language, blocks, draw, device, precision)
    blocks = pack(token_lists(tokenizer, corpus.documents(), poll), length, frame)
    if language.causal:
        return LanguageExamples(language, blocks, next_token(blocks), device, precision)
    blocks, draw = _masking(spec, language, blocks)
    if spec.objective == "replaced_token":
        return ReplacedExamples(language, blocks, draw, device, precision, seed=spec.seed)
    return LanguageExamples(language, blocks, draw, device, precision)


def _masking(spec: PretrainSpec, language: LanguageModel, blocks: Blocks) -> tuple[Blocks, Draw]:
    """Return the blocks with a token to mask, and how they are masked."""
    vocabulary = vocabulary_of(language.tokenizer)
    kept = learnable(blocks, vocabulary)
    hidden = ALL_HIDDEN if spec.objective == "replaced_token" else (MASKED, RANDOM)
    return kept, masked(kept, vocabulary, spec.masked_share, spec.seed, hidden)


def _poll(run: Run) -> Callable[[], None]:
    def poll() -> None:
        if run.stop_requested:
            raise Stopped("STOPPED before training — a retry resumes where the last checkpoint stands")

    return poll


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
