"""ELECTRA's generator lies below the discriminator's folder, loads alone, and goes on where it stood."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from learning.stages.fine_tuning import files
from learning.stages.pretraining import SCRATCH, Job
from learning.tiny_model import SHARED
from transfer_learning.blocks.language.generator import GENERATOR
from transfer_learning.blocks.language.model import LanguageModel, from_base
from transfer_learning.errors import BadInput

SETTINGS = {
    **SCRATCH,
    "architecture": "electra",
    "objective": "replaced_token",
    "vocab_size": 60,
    "epochs": 1,
    "precision": "fp32",
}
SHARED_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    Job(folder, kind=None).run(**SETTINGS)
    return folder / "out" / "model"


def copied(published: Path, folder: Path) -> Path:
    for path in published.rglob("*"):
        if path.is_file():
            (folder / path.relative_to(published)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(published)).write_bytes(path.read_bytes())
    return folder


def generator_of(language: LanguageModel) -> Any:
    return getattr(language.model, GENERATOR)


def test_discriminator_and_generator_load_each_alone_with_every_weight(published: Path, tmp_path: Path) -> None:
    (published / GENERATOR).rename(tmp_path / "alone")
    try:
        generator, its = AutoModelForMaskedLM.from_pretrained(tmp_path / "alone", output_loading_info=True)
        discriminator, others = AutoModelForPreTraining.from_pretrained(published, output_loading_info=True)
    finally:
        (tmp_path / "alone").rename(published / GENERATOR)

    assert files(published / GENERATOR) == ["config.json", "model.safetensors"]
    for found in (its, others):
        assert not any(found[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(generator).__name__ == "ElectraForMaskedLM"
    assert generator.get_output_embeddings().weight is generator.get_input_embeddings().weight
    for table in SHARED_TABLES:
        ours, theirs = (getattr(model.electra.embeddings, table).weight for model in (discriminator, generator))
        assert torch.equal(ours, theirs)


def test_what_is_loaded_guesses_as_the_trained_generator_did(published: Path) -> None:
    ours, theirs = (
        generator_of(from_base(published, "replaced_token", 1)),
        AutoModelForMaskedLM.from_pretrained(published / GENERATOR),
    )
    ids = torch.arange(5, 17).unsqueeze(0)

    with torch.no_grad():
        guesses = [model.eval()(input_ids=ids).logits for model in (ours, theirs)]

    assert torch.allclose(*guesses, atol=1e-6)


def test_a_continued_discriminator_takes_its_stored_generator_and_shares_tables_with_it(published: Path) -> None:
    language = from_base(published, "replaced_token", seed=9)

    stored = load_file(published / GENERATOR / "model.safetensors")
    named = dict(generator_of(language).named_parameters())
    assert all(torch.equal(named[name], tensor) for name, tensor in stored.items())
    assert not language.new_head
    for table in SHARED_TABLES:
        ours, theirs = (getattr(model.electra.embeddings, table) for model in (language.model, generator_of(language)))
        assert ours is theirs


def test_without_a_stored_generator_a_new_one_warms_up(published: Path, tmp_path: Path) -> None:
    folder = copied(published, tmp_path / "base")
    for path in (folder / GENERATOR).iterdir():
        path.unlink()

    assert from_base(folder, "replaced_token", 0).new_head


def test_training_goes_on_from_both(published: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, kind=None)
    job.inputs["base"] = [published]

    metrics = job.run(objective="replaced_token", epochs=1, precision="fp32", learning_rate=1e-12)

    assert "head_epochs" not in metrics
    before, after = (load_file(folder / GENERATOR / "model.safetensors") for folder in (published, tmp_path / "out" / "model"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_passport_and_card_tell_of_the_generator(published: Path) -> None:
    passport = json.loads((published / "passport.json").read_text())

    assert passport["heads"][-1] == {"name": "generator", "kind": "masked_lm", "file": "generator/model.safetensors"}
    assert "lies in `generator/` and loads with `AutoModelForMaskedLM`" in (published / "README.md").read_text()


def other_vocabulary(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": SHARED["vocab_size"] + 1000}))


def other_code(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModelForMaskedLM": "evil.Model"}}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def incomplete(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["generator_predictions.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.promise(8)
@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (other_vocabulary, "^WRONG_KEYS .*the generator has another vocab_size than the discriminator above it"),
        (other_code, "^REMOTE_CODE .*auto_map"),
        (pickled, "^NO_SAFETENSORS .*pytorch_model.bin"),
        (incomplete, "^WRONG_KEYS .*1 missing"),
    ],
)
def test_a_generator_that_does_not_fit_is_one_clear_line(published: Path, tmp_path: Path, spoil: Any, line: str) -> None:
    folder = copied(published, tmp_path / "base")
    spoil(folder / GENERATOR)

    with pytest.raises(BadInput, match=line):
        from_base(folder, "replaced_token", 0)
