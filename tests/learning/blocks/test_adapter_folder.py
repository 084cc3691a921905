"""Adapters alone that somebody damaged, or that another method made, end in one line; nothing is unpickled."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from learning.stages.fine_tuning import Job
from transfer_learning.blocks import base_model
from transfer_learning.blocks.base_model import read_config
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.blocks.safe_loading import count_weights
from transfer_learning.errors import BadInput

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = Job(tmp_path_factory.mktemp("adapters"))
    job.run(strategy="lora", epochs=1, lora_merge=False, lora_rank=4)
    shutil.copytree(job.folder / "base", job.folder / "out" / "model" / "base")
    return job.folder / "out" / "model"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


Harm = Callable[[Path], object]


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    def harm(folder: Path) -> None:
        values = load_file(folder / WEIGHTS)
        change(values)
        save_file(values, folder / WEIGHTS)

    return harm


def config(name: str = CONFIG, **values: object) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return harm


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / "executed")))


def renamed_pickle(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(folder.parent / "executed")))


def another_base(folder: Path) -> None:
    wider = Job(folder.parent / "job", kind="roberta").inputs["base"][0]
    shutil.rmtree(folder / "base")
    shutil.copytree(wider, folder / "base")


HARMS: dict[str, tuple[Harm, str]] = {
    "pickled": (pickled, r"NO_SAFETENSORS {model} only pickled weights \(adapter_model.bin\), and only safetensors are loaded"),
    "renamed pickle": (renamed_pickle, r"BAD_WEIGHTS {model}/adapter_model.safetensors the header claims \d+ bytes"),
    "cut off": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7]),
        "BAD_WEIGHTS {model}/adapter_model.safetensors not a whole safetensors file",
    ),
    "NaN": (
        tensors(lambda values: values[f"{QUERY}.lora_A.weight"].fill_(torch.nan)),
        f"BAD_WEIGHTS {{model}}/adapter_model.safetensors tensor '{QUERY}.lora_A.weight' holds NaN",
    ),
    "a weight of the backbone": (
        tensors(lambda values: values.update({f"{QUERY}.bias": torch.zeros(16)})),
        "WRONG_KEYS {model}/adapter_model.safetensors 1 of its names fit no weight of the base, such as 'bert.encoder.*query.bias'",
    ),
    "a module that is not there": (
        tensors(lambda values: values.update({f"base_model.model.x.lora_{part}.weight": torch.zeros(4, 4) for part in "AB"})),
        "WRONG_KEYS .* 1 of its names fit no weight of the base, such as 'x' — use the base that they were trained on",
    ),
    "half a pair": (
        tensors(lambda values: values.pop(f"{QUERY}.lora_B.weight")),
        "WRONG_KEYS .* 1 of its names fit no weight of the base, such as 'bert.encoder.layer.0.attention.self.query'",
    ),
    "another width": (
        tensors(lambda values: values.update({f"{QUERY}.lora_A.weight": torch.zeros(4, 17)})),
        "WRONG_KEYS .* 1 of its names fit no weight of the base",
    ),
    "another rank": (config(r=8), "WRONG_KEYS .* 6 of its names fit no weight of the base"),
    "names of no wrapped model": (
        tensors(lambda values: values.update(more=torch.zeros(1))),
        "WRONG_KEYS {model}/adapter_model.safetensors 'more' is no name that peft gives",
    ),
    "another base": (another_base, "WRONG_KEYS .* of its names fit no weight of the base"),
    "no head": (
        tensors(lambda values: [values.pop(f"base_model.model.classifier.{part}") for part in ("weight", "bias")]),
        "NO_HEAD {model} its weights hold no classification head",
    ),
    "a head of other labels": (
        config("passport.json", labels=["a", "b"]),
        "NO_HEAD {model} the head has 3 rows of weights, and passport.json names 2 labels — publish the model again",
    ),
    "another method": (config(peft_type="IA3"), "BAD_CONFIG {model}/adapter_config.json asks for peft_type 'IA3'"),
    "weights of their own length": (config(use_dora=True), "BAD_CONFIG {model}/adapter_config.json asks for use_dora, and only"),
    "another scaling": (config(use_rslora=True), "BAD_CONFIG {model}/adapter_config.json asks for use_rslora"),
    "ranks by pattern": (config(rank_pattern={"query": 2}), "BAD_CONFIG {model}/adapter_config.json asks for rank_pattern"),
    "biases": (config(bias="all"), "BAD_CONFIG {model}/adapter_config.json asks for peft_type 'LORA', bias 'all'"),
    "no rank": (config(r=None), "BAD_CONFIG {model}/adapter_config.json r is null and lora_alpha 16, expected numbers above 0"),
    "alpha of nothing": (config(lora_alpha=0), "BAD_CONFIG {model}/adapter_config.json r is 4 and lora_alpha 0"),
    "config is no json": (
        lambda folder: (folder / CONFIG).write_text("{"),
        "BAD_CONFIG {model}/adapter_config.json cannot be read",
    ),
    "code in the tokenizer": (
        config("tokenizer_config.json", auto_map={"AutoTokenizer": "evil.Tokenizer"}),
        r"REMOTE_CODE {model}/tokenizer_config.json asks for code of its own \(auto_map\)",
    ),
    "code in the base": (
        config("base/config.json", auto_map={"AutoModel": "evil.Model"}),
        r"REMOTE_CODE {model}/base/config.json asks for code of its own \(auto_map\)",
    ),
    "pickled base": (
        lambda folder: (folder / "base" / "model.safetensors").rename(folder / "base" / "pytorch_model.bin"),
        r"NO_SAFETENSORS {model}/base only pickled weights \(pytorch_model.bin\)",
    ),
    "no base": (
        lambda folder: shutil.rmtree(folder / "base"),
        "NO_BASE {model} holds adapters alone, and the model they belong to is not in its subfolder base — fetch it with --merged",
    ),
}


@pytest.mark.parametrize("name", HARMS)
def test_adapters_that_cannot_be_used_end_in_one_line(folder: Path, name: str) -> None:
    harm, line = HARMS[name]
    harm(folder)

    with pytest.raises(BadInput, match="^" + line.replace("{model}", str(folder))) as raised:
        load_classifier(folder)

    assert "\n" not in str(raised.value)
    assert not (folder.parent / "executed").exists()


@pytest.mark.parametrize("labels", [["a", "a", "b"], [], "abc", [1, 2, 3], None])
def test_a_passport_without_distinct_labels_is_one_line(folder: Path, labels: object) -> None:
    config("passport.json", labels=labels)(folder)

    with pytest.raises(BadInput, match=f"^BAD_PASSPORT {folder}/passport.json names no labels, or one twice — publish the model"):
        read_config(folder)


def test_untouched_they_load(folder: Path) -> None:
    assert load_classifier(folder).labels == ["business", "film", "sport"]


def test_the_product_counts_alpha_over_rank_times(folder: Path) -> None:
    base = load_file(folder / "base" / "model.safetensors")["encoder.layer.0.attention.self.query.weight"]
    changes = []
    for alpha in (4, 12):
        config(lora_alpha=alpha)(folder)
        weight = load_classifier(folder)._model.model.bert.encoder.layer[0].attention.self.query.weight
        changes.append(weight.detach() - base)

    assert changes[0].abs().max() > 1e-4
    assert torch.allclose(3 * changes[0], changes[1], atol=1e-6)


def test_a_model_with_the_adapters_of_another_beside_it_is_still_refused(folder: Path) -> None:
    shutil.copy(folder / "base" / "config.json", folder)

    with pytest.raises(BadInput, match=r"^REMOTE_CODE \S+adapter_config.json asks for code of its own \(it is an adapter"):
        load_classifier(folder)


def test_the_same_architecture_with_random_weights_is_as_large_as_the_base(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "SLACK", 0)  # which hides what a model this small lacks

    found = base_model.untrained(whole, 0).model

    assert sum(p.numel() for p in found.parameters()) > 2 * count_weights(whole)
