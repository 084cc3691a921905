"""Pretraining from scratch with the tokenizer of a base model, of which nothing else is used."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from learning.stages.fine_tuning import StoppingRun, files, weight_hashes
from learning.stages.pretraining import SCRATCH, Job
from learning.tiny_language import KINDS
from learning.tiny_model import WORDS, write_base
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.stage import Run

QUICK = {name: value for name, value in SCRATCH.items() if name != "vocab_size"} | {
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
    "tokenizer": "base",
}
OBJECTIVES = {"gpt2": "causal_lm"}


def vocabulary(folder: Path) -> dict[str, int]:
    return AutoTokenizer.from_pretrained(folder).get_vocab()


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_starts_from_scratch_with_the_tokenizer_of_the_base(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, kind=None)
    job.inputs["base"] = [write_base(tmp_path / "base", kind)]

    metrics = job.run(**QUICK, architecture=kind, objective=OBJECTIVES.get(kind, "masked_lm"))

    model = AutoModel.from_pretrained(tmp_path / "out" / "model")
    assert vocabulary(tmp_path / "out" / "model") == vocabulary(tmp_path / "base")
    assert metrics["vocabulary"] == model.config.vocab_size == len(vocabulary(tmp_path / "base"))
    assert model.config.hidden_size == 32
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").model_max_length == 32
    assert math.isfinite(metrics["train_loss"])


def test_the_weights_of_the_base_are_not_used(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run("first", **QUICK, architecture="electra")
    weights = tmp_path / "base" / "model.safetensors"
    save_file({name: torch.full_like(tensor, 7) for name, tensor in load_file(weights).items()}, weights)

    job.run("second", **QUICK, architecture="electra")

    assert weight_hashes(tmp_path / "first") == weight_hashes(tmp_path / "second")


def test_a_source_task_is_learned_with_it_too(tmp_path: Path) -> None:
    Job(tmp_path).run(**QUICK, architecture="distilbert", objective="supervised")

    assert vocabulary(tmp_path / "out" / "model") == vocabulary(tmp_path / "base")


def test_positions_of_roberta_start_behind_whatever_number_pads(tmp_path: Path) -> None:
    words = (*WORDS[5:], "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]")
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "CLS", "SEP", "MASK", "PAD")}
    job = Job(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(tmp_path / "base")

    metrics = job.run(**QUICK | {"max_length": 520}, architecture="roberta")

    model = AutoModel.from_pretrained(tmp_path / "out" / "model")
    assert model.config.pad_token_id == len(words) - 1
    assert model.config.max_position_embeddings == 520 + len(words)
    assert math.isfinite(metrics["train_loss"])


def test_a_resumed_job_takes_the_same_tokenizer_again(tmp_path: Path) -> None:
    job = Job(tmp_path)
    settings = {**QUICK, "epochs": 3, "architecture": "bert"}
    whole = job.run("whole", **settings)

    stopped, stops = job.run_stopping("stopped", 6, **settings)

    assert stops > 0
    assert stopped == whole
    assert weight_hashes(tmp_path / "stopped") == weight_hashes(tmp_path / "whole")


def test_a_checkpoint_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path)
    settings = {**QUICK, "epochs": 3, "architecture": "bert"}
    with pytest.raises(Stopped):
        job.run("stopped", StoppingRun(threads=1, checkpoints=tmp_path / "checkpoints", after=8), **settings)
    path = tmp_path / "base" / "tokenizer.json"
    path.write_text(path.read_text().replace('"goal"', '"aim"'))

    with pytest.raises(BadInput, match="^WRONG_CHECKPOINT"):
        job.run("resumed", Run(threads=1, resume_from=max((tmp_path / "checkpoints").glob("step-*"))), **settings)


def test_passport_and_card_name_whose_tokenizer_it_is_and_no_base_model(tmp_path: Path) -> None:
    base = {"uri": "hf://org/tiny@abc", "digest": "d1"}

    Job(tmp_path).run(run=Run(threads=1, facts={"base": base}), **QUICK, architecture="bert")

    passport = json.loads((tmp_path / "out" / "model" / "passport.json").read_text())
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert (passport["tokenizer"], passport["base"]) == (base, {"license": None})
    assert "the tokenizer is that of `hf://org/tiny@abc`, digest `d1`." in card
    assert "base_model" not in card


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("base", "settings", "line"),
    [
        (
            "gpt2",
            {"architecture": "bert"},
            "^TOKENIZER .*the tokenizer has no padding and no classification and no separator and no mask token, and bert needs it",
        ),
        (
            "bert",
            {"architecture": "gpt2", "objective": "causal_lm"},
            "^TOKENIZER .*the tokenizer has no end-of-text token, and gpt2 needs it — name a base with another tokenizer",
        ),
        (None, {"architecture": "bert"}, "^NO_BASE the tokenizer shall be that of the base model, and there is none"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_one_clear_line(tmp_path: Path, base: str | None, settings: dict, line: str) -> None:
    job = Job(tmp_path, kind=None)
    if base:
        job.inputs["base"] = [write_base(tmp_path / "base", base)]

    with pytest.raises(BadInput, match=line):
        job.run(**QUICK, **settings)

    assert files(tmp_path / "out") == []
