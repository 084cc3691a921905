"""A published language model loads with transformers in an interpreter that has nothing of this project."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from learning.stages.pretraining import SCRATCH, Job
from learning.stages.test_published_model import TEXTS, load_elsewhere
from transfer_learning.stage import NUMERICS_VERSIONS, Run

QUICK = {"epochs": 1, "max_length": 32, "precision": "fp32"}
MODELS = {
    "masked": ("bert", {}),
    "masked_scratch": (None, {**SCRATCH, "architecture": "roberta"}),
    "replaced_scratch": (None, {**SCRATCH, "architecture": "electra", "objective": "replaced_token", "vocab_size": 60}),
    "causal_scratch": (None, {**SCRATCH, "architecture": "gpt2", "objective": "causal_lm"}),
}

LOAD = """
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
for name in names:
    loader = AutoModelForCausalLM if name.startswith("causal") else AutoModelForMaskedLM
    (model, found), tokenizer = loader.from_pretrained(name, output_loading_info=True), AutoTokenizer.from_pretrained(name)
    lost = sorted({*found["missing_keys"], *found["unexpected_keys"], *map(str, found["mismatched_keys"])})
    with torch.no_grad():
        logits = model(**tokenizer(texts[0], return_tensors="pt")).logits[0, 1].tolist()
    report(name=name, kind=type(model).__name__, lost=lost, logits=logits, length=tokenizer.model_max_length)
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    folder = tmp_path_factory.mktemp("published")
    for name, (kind, settings) in MODELS.items():
        Job(folder / f"{name}-job", kind=kind).run(**{**QUICK, **settings})
        (folder / f"{name}-job" / "out" / "model").rename(folder / name)
    reports = load_elsewhere(folder, [name for name in MODELS if name != "replaced_scratch"], LOAD)
    cards = {f"{name} card": load_elsewhere(folder, [f"{name}_scratch"], "")["card"] for name in ("causal", "replaced")}
    return folder, reports | cards


@pytest.mark.parametrize(
    ("name", "kind"),
    [("masked", "BertForMaskedLM"), ("masked_scratch", "RobertaForMaskedLM"), ("causal_scratch", "GPT2LMHeadModel")],
)
def test_the_right_head_loads_with_every_weight(published: tuple[Path, dict], name: str, kind: str) -> None:
    folder, reports = published
    loader = AutoModelForCausalLM if name.startswith("causal") else AutoModelForMaskedLM
    model, tokenizer = loader.from_pretrained(folder / name), AutoTokenizer.from_pretrained(folder / name)

    with torch.no_grad():
        ours = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0, 1].numpy()

    assert (reports[name]["kind"], reports[name]["lost"]) == (kind, [])
    assert np.allclose(reports[name]["logits"], ours, atol=1e-5)


@pytest.mark.parametrize("card", ["card", "causal card", "replaced card"])
def test_the_cards_three_lines_run(published: tuple[Path, dict], card: str) -> None:
    assert published[1][card]["lines"] == 3


def test_the_card_tells_data_settings_and_metrics(tmp_path: Path) -> None:
    facts = {
        "model": "news-language",
        "base": {"uri": "hf://org/tiny@abc", "digest": "d1"},
        "dataset": {"name": "news", "digest": "d2", "splits": {"train": 60}},
        "as_of": "2026-01-01T00:00:00+00:00",
    }

    job = Job(tmp_path)
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")

    metrics = job.run(run=Run(threads=1, facts=facts), **QUICK)

    card = (tmp_path / "out" / "model" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["pipeline_tag"], front["base_model"], front["license"]) == ("fill-mask", "org/tiny", "apache-2.0")
    assert f"| train_loss | {metrics['train_loss']:.6g} |" in card
    for text in ("# news-language", "`news`, snapshot `d2`", "hf://org/tiny@abc", "2026-01-01", "| objective | masked_lm |"):
        assert text in card


def test_the_passport_says_what_the_model_is(tmp_path: Path) -> None:
    Job(tmp_path).run(run=Run(threads=1, facts={"base": {"uri": "file:///base#1", "digest": "d1"}}), **QUICK)

    passport = json.loads((tmp_path / "out" / "model" / "passport.json").read_text())

    assert (passport["format"], passport["model_format"], passport["labels"]) == (1, "transformers", [])
    assert passport["heads"] == [{"name": "language_model", "kind": "masked_lm", "file": "model.safetensors"}]
    assert passport["base"]["digest"] == "d1"
    assert passport["mask"] == "[MASK]"
    assert passport["numerics"]["version"] == NUMERICS_VERSIONS["pretrain"]
