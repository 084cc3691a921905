"""Adapters that are published alone: peft loads them without this project, and merged they are what training would have merged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from learning.stages.fine_tuning import Job
from learning.stages.test_published_model import TEXTS, load_elsewhere
from learning.tiny_model import CONFIGS, make_rows, write_rows
from transfer_learning.blocks.base_model import load_base
from transfer_learning.blocks.language.model import from_base
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.errors import BadInput
from transfer_learning.settings import Settings
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import Run
from transfer_learning.stages.fine_tune import fine_tune
from transfer_learning.stages.merge import merge

LORA = {"strategy": "lora", "epochs": 2, "backbone_lr": 1e-2, "head_lr": 1e-2, "precision": "fp32"}
LABELS = ["business", "film", "sport"]
FACTS = {"model": "news"}

PEFT = """
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
for name in names:
    base = AutoModelForSequenceClassification.from_pretrained(f"{name}/base", num_labels=3)
    model, tokenizer = PeftModel.from_pretrained(base, name).eval(), AutoTokenizer.from_pretrained(name)
    rows = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0].tolist() for text in texts]
    merged = model.merge_and_unload()
    again = [merged(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0].tolist() for text in texts]
    report(name=name, rows=rows, merged=again, length=tokenizer.model_max_length)
"""


class Published:
    """One training, published as adapters alone, with the base where the parent lays it, and once more merged."""

    def __init__(self, folder: Path, kind: str = "bert") -> None:
        self.job = Job(folder / "job", kind=kind)
        self.metrics = self.job.run("alone", Run(threads=1, facts=FACTS), lora_merge=False, **LORA)
        self.job.run("merged", Run(threads=1, facts=FACTS), **LORA)
        self.alone, self.merged = (folder / "job" / name / "model" for name in ("alone", "merged"))
        self.files = sorted(path.name for path in self.alone.iterdir())
        shutil.copytree(self.job.folder / "base", self.alone / "base")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    return {kind: Published(tmp_path_factory.mktemp(kind), kind) for kind in sorted(CONFIGS)}


@pytest.fixture(scope="module")
def elsewhere(published: dict[str, Published], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("elsewhere")
    for kind, both in published.items():
        shutil.copytree(both.alone, folder / kind)
    return load_elsewhere(folder, list(published), PEFT)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def passport(folder: Path) -> dict:
    return json.loads((folder / "passport.json").read_text())


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_peft_and_transformers_load_them_and_answer_as_the_merged_model(published: dict, elsewhere: dict, kind: str) -> None:
    both, report = published[kind], elsewhere[kind]

    expected = load_classifier(both.merged).probabilities(TEXTS)

    for rows in (report["rows"], report["merged"]):
        assert np.allclose(torch.tensor(rows).softmax(-1), expected, atol=1e-6)
    assert report["length"] == passport(both.alone)["max_length"]


def test_the_lines_of_the_card_run(elsewhere: dict) -> None:
    assert elsewhere["card"]["lines"] == 9


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_what_is_loaded_is_bit_by_bit_what_training_would_have_merged(published: dict, kind: str) -> None:
    ours, merged = load_classifier(published[kind].alone), load_classifier(published[kind].merged)

    found, expected = ours._model.model.state_dict(), merged._model.model.state_dict()

    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert (ours.labels, ours.max_length) == (merged.labels, merged.max_length)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_no_weight_of_the_backbone_is_published(published: dict, kind: str) -> None:
    both = published[kind]

    tensors = load_file(both.alone / "adapter_model.safetensors")

    assert both.files == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "passport.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert sum(tensor.numel() for tensor in tensors.values()) == both.metrics["trained_weights"]
    heads = ("pooler.", "classifier.", "pre_classifier.", "score.")
    low_rank = [name for name in tensors if ".lora_A." in name or ".lora_B." in name]
    assert all(name.startswith("base_model.model.") for name in tensors)
    assert all(any(f".{head}" in name for head in heads) for name in tensors if name not in low_rank)
    assert all(min(tensors[name].shape) == 8 for name in low_rank)


def test_the_config_is_what_peft_reads_and_names_the_base_of_the_hub(tmp_path: Path) -> None:
    facts = {"base": {"uri": "hf://org/tiny@c0ffee", "digest": "d1"}, "model": "topics"}
    Job(tmp_path).run(run=Run(threads=1, facts=facts), lora_merge=False, lora_rank=4, lora_alpha=12, unfreeze_blocks=1, **LORA)

    folder = tmp_path / "out" / "model"
    config = json.loads((folder / "adapter_config.json").read_text())

    assert (config["peft_type"], config["task_type"], config["inference_mode"]) == ("LORA", "SEQ_CLS", True)
    assert (config["r"], config["lora_alpha"]) == (4, 12)
    assert config["target_modules"] == [f"bert.encoder.layer.2.attention.self.{part}" for part in ("query", "value")]
    assert config["modules_to_save"] == ["pooler", "classifier"]
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "c0ffee")
    assert (passport(folder)["model_format"], passport(folder)["base"]["digest"]) == ("adapter", "d1")
    card = (folder / "README.md").read_text()
    assert '.from_pretrained("org/tiny", revision="c0ffee", id2label=labels' in card
    assert 'library_name: "peft"\n' in card


@pytest.mark.parametrize(("facts", "named"), [({}, None), ({"base": {"uri": "model://news@3", "digest": "d"}}, "model://news@3")])
def test_a_base_that_is_not_on_the_hub_is_named_by_its_uri_and_never_by_a_path(tmp_path: Path, facts: dict, named: str) -> None:
    Job(tmp_path).run(run=Run(threads=1, facts=facts), lora_merge=False, **LORA)

    folder = tmp_path / "out" / "model"

    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == named
    assert '.from_pretrained("BASE", id2label=labels' in (folder / "README.md").read_text()
    assert not [path for path in folder.iterdir() if str(tmp_path) in path.read_bytes().decode(errors="replace")]


def test_the_frozen_weights_are_proven_unchanged_those_beside_adapters_too(published: dict) -> None:
    both, base = published["bert"], load_file(published["bert"].alone / "base" / "model.safetensors")

    frozen = {name: passport(folder)["frozen"]["tensors"] for name, folder in (("alone", both.alone), ("merged", both.merged))}

    assert frozen["alone"] == len([name for name in base if "pooler" not in name])
    assert frozen["alone"] - frozen["merged"] == 3 * 2 * 2  # weight and bias of query and value, whose names change for a while


@pytest.mark.parametrize("kind", ["bert", "albert", "gpt2"])
def test_merged_on_request_the_folder_is_the_one_that_training_merges(published: dict, tmp_path: Path, kind: str) -> None:
    both = published[kind]

    merge(Settings(), {"model": [both.alone]}, tmp_path, Run(threads=1))

    folder = tmp_path / "model"
    ours, trained_weights = weights(folder), weights(both.merged)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in both.merged.iterdir())
    assert (folder / "config.json").read_text() == (both.merged / "config.json").read_text()
    assert ours.keys() == trained_weights.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in trained_weights.items())
    untouched, base = load_file(folder / "model-00001-of-00002.safetensors"), load_file(both.alone / "base" / "model.safetensors")
    assert all(torch.equal(base[name.partition(".")[2]], tensor) for name, tensor in untouched.items())
    told, trained = passport(folder), passport(both.merged)
    assert told["notes"] == ["merged from adapters that were published alone"]
    changed = ("notes", "spec", "settings", "metrics", "frozen")
    assert {name: told[name] for name in told if name not in changed} == {
        name: trained[name] for name in trained if name not in changed
    }


def test_a_plain_model_has_nothing_to_merge(published: dict, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^NO_ADAPTERS \S+ there are no adapters to merge — name a folder of format 'adapter'$"):
        merge(Settings(), {"model": [published["bert"].merged]}, tmp_path, Run(threads=1))


def test_adapters_without_their_head_are_not_merged_with_a_drawn_one(published: dict, tmp_path: Path) -> None:
    shutil.copytree(published["bert"].alone, tmp_path / "model")
    path = tmp_path / "model" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "classifier" not in name}, path)

    with pytest.raises(BadInput, match=r"^NO_HEAD \S+ its weights hold no classification head for "):
        merge(Settings(), {"model": [tmp_path / "model"]}, tmp_path, Run(threads=1))
    assert not (tmp_path / "out").exists()


def rows_of(folder: Path, topics: dict[str, str]) -> Path:
    """Rows of some topics, under other names."""
    return write_rows(folder, [(text, topics[topic]) for text, topic in make_rows(30, seed=2) if topic in topics])


@pytest.mark.parametrize(
    ("topics", "labels"),
    [
        ({"sport": "sport", "film": "film"}, LABELS),
        ({"sport": "sport", "film": "music"}, [*LABELS, "music"]),
    ],
    ids=["its own head", "a head that grows"],
)
def test_training_goes_on_from_them_as_from_the_merged_model(published: dict, tmp_path: Path, topics: dict, labels: list) -> None:
    both, found = published["bert"], []
    inputs = {"train": [rows_of(tmp_path / "rows", topics)]}

    for name, base in (("alone", both.alone), ("merged", both.merged)):
        (tmp_path / name).mkdir()
        spec = FineTuneSpec(init_from="latest", epochs=1, precision="fp32")
        fine_tune(spec, inputs | {"base": [base]}, tmp_path / name, Run(threads=1, facts=FACTS))
        found.append(tmp_path / name / "model")

    assert passport(found[0])["labels"] == passport(found[1])["labels"] == labels
    assert passport(found[0])["base"]["head_labels"] == LABELS
    assert same_weights(*found)


def test_adapters_may_belong_to_other_adapters(published: dict, tmp_path: Path) -> None:
    both, found = published["bert"], []
    for name, base in (("alone", both.alone), ("merged", both.merged)):
        out = tmp_path / name
        out.mkdir()
        spec = FineTuneSpec(**LORA | {"epochs": 1}, lora_merge=False)
        fine_tune(spec, both.job.inputs | {"base": [base]}, out, Run(threads=1, facts=FACTS))
        shutil.copytree(base, out / "model" / "base")
        found.append(load_classifier(out / "model").probabilities(TEXTS))

    assert np.allclose(*found, atol=1e-5)
    assert not np.allclose(found[0], load_classifier(both.alone).probabilities(TEXTS), atol=1e-3)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_features_and_language_models_start_from_them_as_from_the_merged_model(published: dict, kind: str) -> None:
    both = published[kind]

    pooled = [load_base(base, LABELS, "mean", seed=0).model for base in (both.alone, both.merged)]
    language = [
        from_base(base, {"electra": "replaced_token", "gpt2": "causal_lm"}.get(kind, "masked_lm"), seed=0)
        for base in (both.alone, both.merged)
    ]

    for one, other in (pooled, [found.model for found in language]):
        ours, theirs = one.state_dict(), other.state_dict()
        fresh = "pooler" if kind == "roberta" else "\0"  # its classifier has none
        assert [name for name in theirs if fresh not in name and not torch.equal(ours[name], theirs[name])] == []


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
