"""A base folder is loaded whole and safe, or refused with one line."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

from learning.tiny_model import CONFIGS, write_base, write_tokenizer
from transfer_learning.blocks import base_model
from transfer_learning.blocks.base_model import load_base, load_weights, read_config
from transfer_learning.errors import BadInput

LABELS = ["no", "yes"]

SET_BY_US = dict.fromkeys(("_name_or_path", "id2label", "label2id", "problem_type", "pad_token_id"))
"""Settings that do not come from the folder alone."""


def change_config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


def renamed_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n.")


def oversize_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")


def poison(weights: dict[str, torch.Tensor]) -> None:
    weights["encoder.layer.0.output.dense.weight"][0, 0] = torch.nan


def lose_layer(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.startswith("encoder.layer.1.")]:
        del weights[name]


def foreign_layer(weights: dict[str, torch.Tensor]) -> None:
    weights["encoder.layer.7.output.dense.weight"] = torch.zeros(2, 2)


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.promise(8)
@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (change_config(auto_map={"AutoModel": "evil.Model"}), "REMOTE_CODE.*auto_map"),
        (change_config(text_config={"_attn_implementation": "evil/kernel"}), "REMOTE_CODE.*_attn_implementation"),
        (change_config(_attn_implementation_internal="evil/kernel"), "REMOTE_CODE"),
        (change_config(model_type="opt"), "ARCHITECTURE.*opt"),
        (change_config(model_type="gpt2", n_layer=10**9), "BAD_CONFIG.*n_layer is '1000000000'"),
        (change_config(is_decoder=True), "ARCHITECTURE.*decoder"),
        (change_config(hidden_size=32), "WRONG_KEYS.*another shape"),
        (only_pickle, "NO_SAFETENSORS.*pytorch_model.bin"),
        (renamed_pickle, "BAD_WEIGHTS"),
        (oversize_header, "BAD_WEIGHTS"),
        (change_weights(poison), "BAD_WEIGHTS.*NaN"),
        (change_weights(lose_layer), "WRONG_KEYS.*missing.*encoder.layer.1"),
        (change_weights(foreign_layer), "WRONG_KEYS.*without a place.*encoder.layer.7"),
        (lambda folder: write_tokenizer(folder, extra=5), "TOKENIZER.*embeds"),
        (without_tokenizer, "TOKENIZER"),
        (lambda folder: (folder / "config.json").unlink(), "NO_BASE"),
        (lambda folder: (folder / "config.json").write_text("{"), "BAD_CONFIG"),
    ],
)
@pytest.mark.parametrize("pooling", ["architecture", "mean"])
def test_a_base_that_cannot_work_is_refused_with_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], line: str, pooling: str
) -> None:
    folder = write_base(tmp_path / "base")
    spoil(folder)

    with pytest.raises(BadInput, match=line) as refusal:
        load_base(folder, LABELS, pooling, seed=0)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("mmap can't allocate: Cannot allocate memory (12)")])
def test_lack_of_memory_is_no_bad_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(base_model, "_load_by_name", full)

    with pytest.raises(type(error)) as raised:
        load_base(write_base(tmp_path / "base"), LABELS, "mean", seed=0)

    assert raised.value is error


@pytest.mark.promise(8)
def test_every_weight_of_the_base_is_taken_and_only_the_head_is_new(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")

    model = load_base(folder, LABELS, "architecture", seed=0).model

    stored, loaded = load_file(folder / "model.safetensors"), model.state_dict()
    assert all(torch.equal(tensor, loaded[f"bert.{name}"]) for name, tensor in stored.items())
    assert set(loaded) - {f"bert.{name}" for name in stored} == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("shard", ["1GB", "5KB"])
@pytest.mark.parametrize("loader", [AutoModel, AutoModelForSequenceClassification])
def test_weights_that_are_named_as_the_models_own_are_loaded_as_the_library_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, shard: str, loader: Any
) -> None:
    folder = write_base(tmp_path / "base", kind)
    model = loader.from_pretrained(folder, id2label=dict(enumerate(LABELS)))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=shard)
    expected = loader.from_pretrained(folder, dtype=torch.float32)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    pooling = "mean" if loader is AutoModel else "architecture"

    found = load_base(folder, LABELS if pooling == "architecture" else [], pooling, seed=3).model

    drawn = torch.rand(1)
    assert type(found) is type(expected)
    assert {**found.config.to_dict(), **SET_BY_US} == {**expected.config.to_dict(), **SET_BY_US}
    assert not found.training
    for of_model in (torch.nn.Module.state_dict, lambda model: dict(model.named_buffers())):
        ours, theirs = of_model(found), of_model(expected)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype for name, tensor in theirs.items())
    assert all(parameter.requires_grad for parameter in found.parameters())
    torch.manual_seed(3)
    assert drawn == torch.rand(1)


def test_the_model_gets_a_configuration_of_its_own(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")
    config = read_config(folder)

    model, _ = load_weights(AutoModel, folder, config, 0, lambda *_: False)

    assert model.config is not config


def test_weights_that_the_model_shares_stay_shared_where_the_file_holds_them_twice(tmp_path: Path) -> None:
    folder, config = write_base(tmp_path / "base"), CONFIGS["bert"]
    twice = {name: tensor.clone() for name, tensor in AutoModelForMaskedLM.from_config(config).state_dict().items()}
    save_file(twice, folder / "model.safetensors", metadata={"format": "pt"})

    model, _ = load_weights(AutoModelForMaskedLM, folder, config, 0, lambda *_: False)

    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_pretraining_head_is_left_behind(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")
    change_weights(lambda weights: weights.update({"cls.predictions.bias": torch.zeros(3)}))(folder)

    assert not load_base(folder, LABELS, "architecture", seed=0).head_labels


def test_the_masks_that_older_gpt2_files_hold_are_no_weights(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", "gpt2")
    change_weights(lambda weights: weights.update({"h.0.attn.bias": torch.ones(1, 1, 48, 48).tril()}))(folder)

    assert not load_base(folder, LABELS, "mean", seed=0).head_labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_every_width_are_checked_and_loaded_in_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write_base(tmp_path / "base") / "model.safetensors"
    narrow = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(narrow, path, {"format": "pt"})

    loaded = dict(load_base(tmp_path / "base", [], "mean", seed=0).model.named_parameters())

    assert all(torch.equal(loaded[name].detach(), tensor.float()) for name, tensor in narrow.items())
    one = next(iter(narrow))
    save_file(narrow | {one: torch.full_like(narrow[one].float(), torch.nan).to(dtype)}, path, {"format": "pt"})
    with pytest.raises(BadInput, match=f"^BAD_WEIGHTS .*{one}.*NaN"):
        load_base(tmp_path / "base", [], "mean", seed=0)
