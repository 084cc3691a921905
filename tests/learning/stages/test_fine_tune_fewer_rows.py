"""Learning from some of the rows, and without what the base model knows."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from learning.stages.fine_tuning import Job, weight_hashes
from learning.tiny_model import make_rows, write_rows
from transfer_learning.blocks.base_model import load_base, untrained
from transfer_learning.errors import BadInput
from transfer_learning.specs import EvaluateSpec, FineTuneSpec
from transfer_learning.stage import Run
from transfer_learning.stages.evaluate import evaluate


def passport(out: Path) -> dict[str, Any]:
    return json.loads((out / "model" / "passport.json").read_text())


def ledger(out: Path) -> set[bytes]:
    return set(pq.read_table(out / "ledger.parquet")["row_key"].to_pylist())


def test_only_the_drawn_rows_train_and_stand_in_the_ledger(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=30, validation=6)

    few = job.run("few", strategy="linear_probe", train_rows=9)
    more = job.run("more", strategy="linear_probe", train_rows=18)
    job.run("every", strategy="linear_probe")

    assert (few["rows"], more["rows"]) == (9, 18)
    assert [len(ledger(tmp_path / name)) for name in ("few", "more", "every")] == [9 + 6, 18 + 6, 30 + 6]
    assert ledger(tmp_path / "few") < ledger(tmp_path / "more") < ledger(tmp_path / "every")
    assert passport(tmp_path / "few")["label_counts"]["train"] == {"business": 3, "film": 3, "sport": 3}
    assert passport(tmp_path / "few")["settings"]["train_rows"] == "9, drawn by seed"


def test_what_was_not_drawn_cannot_change_the_result(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=30)
    job.run("first", strategy="linear_probe", train_rows=9)
    drawn = ledger(tmp_path / "first")
    kept = [row for row in make_rows(30) if row_key(row) in drawn]
    job.inputs["train"] = [write_rows(tmp_path / "kept", kept)]

    job.run("second", strategy="linear_probe")

    assert weight_hashes(tmp_path / "first") == weight_hashes(tmp_path / "second")


def row_key(row: tuple[str, str]) -> bytes:
    from learning.tiny_model import keys

    return keys("row", [row])[0].as_py()


def test_another_number_of_rows_is_another_job() -> None:
    assert FineTuneSpec(train_rows=9).canonical() == {"train_rows": 9}
    assert FineTuneSpec().canonical() == {}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"train_rows": 0}, "BAD_SETTING FineTuneSpec.train_rows must be above 0, found 0"),
        ({"train_rows": 9, "replay": 0.5}, "BAD_SETTING replay and train_rows both say which rows train"),
        ({"init_from": "scratch", "replay": 0.5}, "BAD_SETTING replay keeps what a version has learned, and init_from is 'scr"),
    ],
)
def test_settings_that_contradict_each_other_are_one_clear_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput, match=f"^{line}"):
        FineTuneSpec(**settings)


def test_the_baselines_learn_from_the_rows_that_the_candidate_learned_from(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=30)
    test = write_rows(tmp_path / "test", make_rows(30, seed=9))

    def baseline(name: str, **settings: Any) -> dict[str, Any]:
        job.run(name, strategy="linear_probe", **settings)
        (tmp_path / name / "ledger").mkdir()
        (tmp_path / name / "ledger.parquet").rename(tmp_path / name / "ledger" / "1.parquet")
        inputs = {
            "candidate": [tmp_path / name / "model"], "candidate_ledger": [tmp_path / name / "ledger"],
            "train": job.inputs["train"], "test": [test],
        }  # fmt: skip
        (tmp_path / name / "out").mkdir()
        evaluate(EvaluateSpec(), inputs, tmp_path / name / "out", Run(threads=1))
        return json.loads((tmp_path / name / "out" / "verdict.json").read_text())["metrics"]["baselines"]

    few, every = baseline("few", train_rows=6), baseline("every")

    assert (few["tfidf"]["train_rows"], every["tfidf"]["train_rows"]) == (6, 30)
    assert few["majority"]["train_rows"] == 6


@pytest.mark.parametrize("pooling", ["architecture", "mean"])
def test_from_scratch_every_weight_is_drawn_from_the_seed(tmp_path: Path, pooling: str) -> None:
    base = Job(tmp_path).inputs["base"][0]

    drawn, again, other = (untrained(base, seed, ["a", "b"], pooling).model.state_dict() for seed in (1, 1, 2))
    trained = load_base(base, ["a", "b"], pooling, seed=1).model.state_dict()

    assert {name: tensor.shape for name, tensor in drawn.items()} == {name: tensor.shape for name, tensor in trained.items()}
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)
    matrices = [name for name, tensor in drawn.items() if tensor.ndim > 1]
    assert not any(torch.equal(drawn[name], values[name]) for name in matrices for values in (other, trained))
    assert all(tensor.dtype == torch.float32 for tensor in drawn.values() if tensor.is_floating_point())


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "albert", "distilbert"])
def test_it_learns_from_scratch_with_the_bases_tokenizer_and_says_so(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, kind=kind)

    metrics = job.run(init_from="scratch", epochs=1)

    assert metrics["train_loss"] > 0
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "- Random weights, drawn from seed 0; architecture and tokenizer: `a local folder`, digest `not given`." in card
    assert "Trained from scratch, strategy `full`" in card
    assert "Base model: `" not in card
    assert passport(tmp_path / "out")["settings"]["init_from"] == "scratch"
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert loaded.get_vocab() == AutoTokenizer.from_pretrained(job.inputs["base"][0]).get_vocab()


def test_a_probe_of_random_weights_leaves_them_as_they_were_drawn(tmp_path: Path) -> None:
    job = Job(tmp_path)

    job.run(strategy="linear_probe", init_from="scratch", seed=5)

    published = load_file(next((tmp_path / "out" / "model").glob("*.safetensors")))
    name = "encoder.layer.0.attention.self.query.weight"
    (found,) = [tensor for key, tensor in published.items() if key.endswith(name)]
    assert torch.equal(found, untrained(job.inputs["base"][0], 5).model.state_dict()[name])
    assert "their hashes are those that were drawn." in (tmp_path / "out" / "model" / "README.md").read_text()


def test_a_card_from_scratch_names_no_base_model_in_its_front_matter(tmp_path: Path) -> None:
    job = Job(tmp_path)
    facts = {"base": {"uri": "hf://org/name@" + "0" * 40, "digest": "1" * 64}}

    job.run("base", Run(threads=1, facts=facts), epochs=1)
    job.run("scratch", Run(threads=1, facts=facts), epochs=1, init_from="scratch")

    base, scratch = ((tmp_path / name / "model" / "README.md").read_text() for name in ("base", "scratch"))
    assert ('base_model: "org/name"' in base, "base_model:" in scratch) == (True, False)


def test_stopped_and_resumed_from_scratch_ends_bit_identical(tmp_path: Path) -> None:
    job = Job(tmp_path)
    settings: dict[str, Any] = {"init_from": "scratch", "epochs": 2, "train_rows": 20, "checkpoint_seconds": 1e-6}

    job.run("whole", **settings)
    _, stops = job.run_stopping("stopped", every=4, **settings)

    assert stops > 1
    assert weight_hashes(tmp_path / "whole") == weight_hashes(tmp_path / "stopped")
