"""Pretraining from folders to a folder: what is written, what is learned, what is refused, what is the same twice."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer

from learning.stages.fine_tuning import files, weight_hashes
from learning.stages.pretraining import SCRATCH, Job
from learning.tiny_model import POSITIONS, make_rows, write_rows, write_tokenizer
from transfer_learning.blocks.model_folder import PASSPORT
from transfer_learning.errors import BadInput
from transfer_learning.specs import FineTuneSpec
from transfer_learning.specs.architectures import FAMILIES, OBJECTIVES
from transfer_learning.stage import Run
from transfer_learning.stages.fine_tune import fine_tune

WRITTEN = ["README.md", "config.json", "model.safetensors", "passport.json", "tokenizer.json", "tokenizer_config.json"]
LOADERS = {"masked_lm": AutoModelForMaskedLM, "causal_lm": AutoModelForCausalLM}
QUICK = {"epochs": 1, "max_length": 32, "batch_size": 8, "precision": "fp32"}


def scratch(kind: str, **settings: Any) -> dict[str, Any]:
    objective = next(objective for objective, kinds in OBJECTIVES.items() if kind in kinds)
    vocabulary = {"vocab_size": 300 if FAMILIES[kind].tokenizer == "byte_bpe" else 60}
    return {**QUICK, **SCRATCH, **vocabulary, "architecture": kind, "objective": objective, **settings}


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_architecture_starts_from_scratch_with_a_tokenizer_of_its_own(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, kind=None)
    settings = scratch(kind)

    metrics = job.run(**settings)

    model = LOADERS[settings["objective"]].from_pretrained(tmp_path / "out" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert files(tmp_path / "out") == sorted(["ledger.parquet", *(f"model/{name}" for name in WRITTEN)])
    assert model.num_parameters() == metrics["parameters"]
    assert len(tokenizer) == metrics["vocabulary"] == model.config.vocab_size
    assert tokenizer.model_max_length == 32
    assert math.isfinite(metrics["train_loss"])


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_it_learns_to_predict_tokens(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, documents=90, validation=60, kind=None)

    early = job.run("early", **scratch(kind, learning_rate=3e-3))
    late = job.run("late", **scratch(kind, learning_rate=3e-3, epochs=25))

    assert late["validation_loss"] < early["validation_loss"] - 0.5
    assert late["validation_perplexity"] == pytest.approx(math.exp(late["validation_loss"]))
    assert late["train_perplexity"] == pytest.approx(math.exp(late["train_loss"]))


@pytest.mark.parametrize("kind", OBJECTIVES["masked_lm"])
def test_a_base_without_a_head_is_continued_after_a_warm_up(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, kind=kind)

    metrics = job.run(**QUICK, head_epochs=2)

    passport = json.loads((tmp_path / "out" / "model" / PASSPORT).read_text())
    base = load_file(tmp_path / "base" / "model.safetensors")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "model")
    moved = {
        name for name, tensor in model.base_model.state_dict().items() if name in base and not torch.equal(tensor, base[name])
    }
    assert (metrics["head_epochs"], metrics["pretrain_epochs"]) == (2, 1)
    assert passport["settings"]["head_epochs"] == 2
    assert len(moved) > 10
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").model_max_length == POSITIONS


def test_a_published_language_model_is_continued_without_a_warm_up(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run("first", **QUICK)
    job.inputs["base"] = [tmp_path / "first" / "model"]

    metrics = job.run("second", **QUICK)

    assert "head_epochs" not in metrics


def test_gpt2_from_scratch_is_continued_as_it_is(tmp_path: Path) -> None:
    job = Job(tmp_path, kind=None)
    first = job.run("first", **scratch("gpt2"))
    job.inputs["base"] = [tmp_path / "first" / "model"]

    second = job.run("second", **QUICK, objective="causal_lm")

    assert second["vocabulary"] == first["vocabulary"]
    assert second["train_loss"] < first["train_loss"]


@pytest.mark.parametrize("kind", [*OBJECTIVES["masked_lm"], "gpt2"])
def test_fine_tuning_starts_from_it_without_more_ado(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, kind=None)
    job.run("language", **scratch(kind))
    pretrained = load_file(tmp_path / "language" / "model" / "model.safetensors")
    inputs = {"base": [tmp_path / "language" / "model"], "train": job.inputs["train"]}
    (tmp_path / "tuned").mkdir()

    fine_tune(FineTuneSpec(strategy="linear_probe", precision="fp32"), inputs, tmp_path / "tuned", Run(threads=1))

    tuned = load_file(tmp_path / "tuned" / "model" / "model.safetensors")
    prefix = "transformer." if kind == "gpt2" else f"{kind}."
    body = {name.removeprefix(prefix): tensor for name, tensor in pretrained.items() if name.startswith(prefix)}
    assert len(body) > 10
    assert all(torch.equal(tensor, tuned[name]) for name, tensor in body.items())


@pytest.mark.parametrize("start", ["continued", "scratch"])
def test_electra_learns_to_tell_replaced_tokens(tmp_path: Path, start: str) -> None:
    job = Job(tmp_path, validation=20, kind="electra" if start == "continued" else None)
    settings = {**(QUICK if start == "continued" else scratch("electra")), "objective": "replaced_token"}

    metrics = job.run(**settings)

    model, found = AutoModelForPreTraining.from_pretrained(tmp_path / "out" / "model", output_loading_info=True)
    assert type(model).__name__ == "ElectraForPreTraining"
    assert not any(found[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.num_parameters() == metrics["parameters"]
    assert 0 <= metrics["validation_token_accuracy"] <= 1
    assert ("head_epochs" in metrics) == (start == "continued")


def test_fine_tuning_starts_from_a_discriminator(tmp_path: Path) -> None:
    job = Job(tmp_path, kind=None)
    job.run("language", **scratch("electra", objective="replaced_token"))
    inputs = {"base": [tmp_path / "language" / "model"], "train": job.inputs["train"]}
    (tmp_path / "tuned").mkdir()

    metrics = fine_tune(FineTuneSpec(epochs=1, precision="fp32"), inputs, tmp_path / "tuned", Run(threads=1))

    assert math.isfinite(metrics["train_loss"])


PAIRS = {"bert": "next_sentence", "albert": "sentence_order"}


def sentences(count: int) -> list[tuple[str, str]]:
    """Documents of five sentences each."""
    rows = make_rows(5 * count, seed=6)
    return [(". ".join(text for text, _ in rows[5 * i : 5 * i + 5]) + ".", rows[5 * i][1]) for i in range(count)]


@pytest.mark.parametrize("start", ["continued", "scratch"])
@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_of_segments_are_learned_beside_masked_tokens(tmp_path: Path, kind: str, start: str) -> None:
    job = Job(tmp_path, kind=kind if start == "continued" else None)
    job.inputs["train"] = [write_rows(tmp_path / "pairs", sentences(30))]
    job.inputs["validation"] = [write_rows(tmp_path / "held out", sentences(8))]
    settings = {**(QUICK if start == "continued" else scratch(kind)), "sentences": PAIRS[kind]}

    metrics = job.run(**settings)

    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "model")
    whole = AutoModelForPreTraining.from_pretrained(tmp_path / "out" / "model")
    assert 0 <= metrics["validation_pair_accuracy"] <= 1
    assert metrics["validation_loss"] > math.log(metrics["validation_perplexity"])
    assert "train_perplexity" not in metrics  # its loss is not that of tokens alone
    assert ("head_epochs" in metrics) == (start == "continued")
    assert type(whole).__name__.endswith("ForPreTraining")
    assert model.num_parameters() < whole.num_parameters() == metrics["parameters"]


def test_fine_tuning_starts_from_a_model_of_pairs_with_its_pooler(tmp_path: Path) -> None:
    job = Job(tmp_path, kind=None)
    job.inputs["train"] = [write_rows(tmp_path / "pairs", sentences(30))]
    job.run("language", **scratch("bert"), sentences="next_sentence")
    inputs = {"base": [tmp_path / "language" / "model"], "train": job.inputs["train"]}
    (tmp_path / "tuned").mkdir()

    fine_tune(FineTuneSpec(epochs=1, precision="fp32", backbone_lr=1e-9), inputs, tmp_path / "tuned", Run(threads=1))

    before, after = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("language", "tuned"))
    pooler = "bert.pooler.dense.weight"
    assert torch.allclose(before[pooler], after[pooler], atol=1e-6)


@pytest.mark.promise(27)
def test_a_corpus_without_sentences_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="^NO_SENTENCES no document has two sentences, and next_sentence needs them"):
        Job(tmp_path).run(**QUICK, sentences="next_sentence")


def test_a_classifier_of_the_same_name_takes_no_labels_from_a_language_model(tmp_path: Path) -> None:
    job, run = Job(tmp_path), Run(threads=1, facts={"model": "news"})
    job.run("language", run, **QUICK)
    inputs = {"base": [tmp_path / "language" / "model"], "train": job.inputs["train"]}
    (tmp_path / "tuned").mkdir()

    fine_tune(FineTuneSpec(epochs=1, init_from="latest"), inputs, tmp_path / "tuned", Run(threads=1, facts={"model": "news"}))

    assert json.loads((tmp_path / "tuned" / "model" / PASSPORT).read_text())["labels"] == ["business", "film", "sport"]


def test_the_ledger_names_every_document_that_was_trained_on_and_no_other(tmp_path: Path) -> None:
    job = Job(tmp_path, documents=40, validation=8)
    job.inputs["unlabelled"] = [write_rows(tmp_path / "unlabelled", make_rows(9, seed=4))]
    job.inputs["train"].append(write_rows(tmp_path / "empty", [(" ", "film")]))

    metrics = job.run(**QUICK)

    ledger = pq.read_table(tmp_path / "out" / "ledger.parquet")
    read = [pq.read_table(tmp_path / name) for name in ("train", "unlabelled")]
    assert ledger.schema == pa.schema([("row_key", pa.binary(32)), ("content_key", pa.binary(32))])
    for column in ("row_key", "content_key"):
        assert set(ledger[column].to_pylist()) == {key for table in read for key in table[f"_{column}"].to_pylist()}
    assert (metrics["documents"], metrics["empty_documents"]) == (49, 1)


def test_a_corpus_without_labelled_rows_is_enough(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.inputs["unlabelled"] = job.inputs.pop("train")

    assert job.run(**QUICK)["documents"] == 60


def test_test_rows_that_were_handed_on_are_not_read(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run("without", **QUICK)
    job.inputs["test"] = [write_rows(tmp_path / "test", make_rows(30, seed=9))]

    job.run("with", **QUICK)

    assert weight_hashes(tmp_path / "with") == weight_hashes(tmp_path / "without")


@pytest.mark.parametrize("kind", ["bert", None], ids=["continued", "scratch"])
def test_the_same_seed_gives_identical_weights_and_another_seed_does_not(tmp_path: Path, kind: str | None) -> None:
    job = Job(tmp_path, kind=kind)
    settings = QUICK if kind else scratch("albert")

    first = job.run("first", **settings, seed=3)
    second = job.run("second", **settings, seed=3)
    job.run("third", **settings, seed=4)

    assert first == second
    assert weight_hashes(tmp_path / "first") == weight_hashes(tmp_path / "second") != weight_hashes(tmp_path / "third")


def test_the_way_documents_lie_in_parts_changes_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run("first", **QUICK)
    job.inputs["train"] = [write_rows(tmp_path / "again", make_rows(60)[::-1], parts=5)]

    job.run("second", **QUICK)

    assert weight_hashes(tmp_path / "first") == weight_hashes(tmp_path / "second")


def test_progress_tells_perplexity_and_tokens_a_second(tmp_path: Path) -> None:
    Job(tmp_path).run(run=Run(threads=1, progress_file=tmp_path / "progress.jsonl"), **QUICK)

    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line.get("phase") == "pretrain" and "lr" in line]
    assert steps[-1]["perplexity"] == pytest.approx(math.exp(steps[-1]["loss"]))
    assert steps[-1]["tokens_per_second"] > 0
    assert "flops_utilisation" not in steps[-1]  # nobody knows what this processor can do
    assert {line.get("phase") for line in lines} >= {"tokens", "head", "pretrain"}


def test_nothing_about_this_machine_is_published(tmp_path: Path) -> None:
    Job(tmp_path).run(**QUICK)

    for path in (tmp_path / "out" / "model").glob("*.json"):
        assert str(tmp_path) not in path.read_text()


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"max_length": POSITIONS + 1}, "^BAD_SETTING max_length is 49, and the base model takes 48 tokens — at most 48"),
        ({"max_length": 4}, "^BAD_SETTING max_length is 4, and a block takes at least 8 tokens"),
        (
            {"objective": "causal_lm"},
            "^ARCHITECTURE .*'bert' does not support the objective 'causal_lm' — causal_lm is learned by gpt2;",
        ),
        ({"architecture": "bert"}, "^BAD_SETTING architecture is 'bert', which starts from scratch, and there is a base model"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_line(tmp_path: Path, settings: dict[str, Any], line: str) -> None:
    job = Job(tmp_path)

    with pytest.raises(BadInput, match=line):
        job.run(**settings)

    assert files(tmp_path / "out") == []


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([("", "film"), ("  ", "film")], r"^NO_TEXT \[text\] all 2 documents are empty"),
        ([("the goal", "sport")], "^SMALL_CORPUS the whole corpus has 4 tokens, and one block takes 48"),
        ([("ħ " * 100, "sport")], "^TOKENIZER every token of the corpus is unknown to the tokenizer"),
    ],
)
def test_a_corpus_that_cannot_teach_is_one_clear_line(tmp_path: Path, rows: list, line: str) -> None:
    job = Job(tmp_path)
    job.inputs["train"] = [write_rows(tmp_path / "bad", rows)]

    with pytest.raises(BadInput, match=line):
        job.run()

    assert files(tmp_path / "out") == []


def test_without_base_and_architecture_there_is_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="^NO_BASE there is nothing to continue from"):
        Job(tmp_path, kind=None).run(**QUICK)


def test_a_tokenizer_that_does_not_fit_the_model_is_one_clear_line(tmp_path: Path) -> None:
    job = Job(tmp_path)
    write_tokenizer(tmp_path / "base", extra=3)

    with pytest.raises(BadInput, match="^TOKENIZER .*the tokenizer has 28 tokens and the model embeds 25"):
        job.run(**QUICK)
