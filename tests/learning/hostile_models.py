"""Published folders that somebody changed: each function harms one, and its table says in which line that must end."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from learning.tiny_model import write_tokenizer

Harm = Callable[[Path], None]
WEIGHTS = "model.safetensors"


class Bomb:
    """Unpickled, it makes a file beside the model."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def pickle_of(folder: Path, protocol: int) -> bytes:
    return pickle.dumps(Bomb(folder.parent / "executed"), protocol=protocol)


def renamed_pickle(protocol: int) -> Harm:
    return lambda folder: (folder / WEIGHTS).write_bytes(pickle_of(folder, protocol))


def renamed_archive(folder: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle_of(folder, 2))
    (folder / WEIGHTS).write_bytes(archive.getvalue())


def pickled_instead(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle_of(folder, 2))


def pickled_beside(folder: Path) -> None:
    """Names a pickle in the config, as the library lets one do."""
    (folder / "adapter_model.bin").write_bytes(pickle_of(folder, 2))
    in_json("config.json", transformers_weights="adapter_model.bin")(folder)


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/evil", "peft_type": "LORA"}))


def indexed(name: str) -> Harm:
    def harm(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        (folder / "pytorch_model.bin").write_bytes(pickle_of(folder, 2))
        (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        save_file({"a": torch.zeros(1)}, folder / "extra.safetensors")

    return harm


def header(text: bytes, body: int = 8, claim: int | None = None) -> Harm:
    """Replace the weights by a file with this header and so many bytes behind it."""
    return lambda folder: (folder / WEIGHTS).write_bytes(
        struct.pack("<Q", len(text) if claim is None else claim) + text + bytes(body)
    )


def tensors(*spans: tuple[str, int, int]) -> bytes:
    parts = (b'"%s":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}' % (n.encode(), a, b) for n, a, b in spans)
    return b"{" + b",".join(parts) + b"}"


def cut_off(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-7])


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Harm:
    def harm(folder: Path) -> None:
        values = load_file(folder / WEIGHTS)
        change(values)
        save_file(values, folder / WEIGHTS, metadata={"format": "pt"})

    return harm


def set_first(value: float) -> Harm:
    return weights(lambda values: values["bert.encoder.layer.0.output.dense.weight"].view(-1)[:1].fill_(value))


def in_json(name: str, **values: Any) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))
        (folder / "evil.py").write_text(f"import os; os.mkdir({str(folder.parent / 'executed')!r})")

    return harm


def redirected(folder: Path) -> None:
    """The config that the library really reads is another file."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.5.0.0.json").write_text(json.dumps(config | {"_attn_implementation_internal": "org/evil"}))
    in_json("config.json", configuration_files=["config.5.0.0.json"])(folder)


def nested(name: str) -> Harm:
    return lambda folder: (folder / name).write_text("[" * 100_000)


def tokenizer_outside(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.json")
    in_json("tokenizer_config.json", tokenizer_file=str(folder.parent / "tokenizer.json"))(folder)


def bigger_tokenizer(folder: Path) -> None:
    write_tokenizer(folder, extra=5)


CODE = {"AutoModel": "evil.Model", "AutoModelForSequenceClassification": "evil.Model", "AutoConfig": "evil.Config"}


def remote(key: str, file: str = "config.json") -> str:
    return f"REMOTE_CODE {{model}}/{file} asks for code of its own ({key}) — use a model that runs on transformers alone"


def damaged(what: str) -> str:
    return f"BAD_WEIGHTS {{model}}/{WEIGHTS} {what} — copy it again"


HARMS: dict[str, tuple[Harm, str]] = {
    "pickle 0": (renamed_pickle(0), damaged("the header claims … bytes")),
    "pickle 2": (renamed_pickle(2), damaged("the header claims … bytes")),
    "pickle 5": (renamed_pickle(5), damaged("the header claims … bytes")),
    "torch archive": (renamed_archive, damaged("the header claims … bytes")),
    "only pickle": (
        pickled_instead,
        "NO_SAFETENSORS {model} only pickled weights (pytorch_model.bin), and only safetensors are loaded — convert them once with save_pretrained",
    ),
    "pickle named in config": (pickled_beside, remote("transformers_weights")),
    "adapter of another base": (adapter, remote("it is an adapter of another model", "adapter_config.json")),
    "index to a pickle": (
        indexed("pytorch_model.bin"),
        "BAD_WEIGHTS {model}/model.safetensors.index.json the index names 'pytorch_model.bin', which is no safetensors file of this folder — use another copy",
    ),
    "index out of the folder": (
        indexed(f"../{WEIGHTS}"),
        "BAD_WEIGHTS {model}/model.safetensors.index.json the index names '../model.safetensors', which is no safetensors file of this folder — use another copy",
    ),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), damaged("the header claims 0 bytes")),
    "oversize header": (header(b"{}", claim=2**62), damaged("the header claims 4611686018427387904 bytes")),
    "header of 100 MB": (header(b"{}", claim=100_000_000), damaged("the header claims 100000000 bytes")),
    "header is no json": (header(b"{\xff}"), damaged("the header is damaged: …")),
    "header without end": (header(b"[" * 200_000), damaged("the header is damaged: …")),
    "tensor without a shape": (header(b'{"w": 5}'), damaged("the header tells no shape of 'w'")),
    "shape is text": (header(b'{"w": {"shape": ["2"]}}'), damaged("the header tells no shape of 'w'")),
    "overlap": (header(tensors(("a", 0, 4), ("b", 2, 6))), damaged("not a whole safetensors file: …")),
    "hole": (header(tensors(("a", 0, 4), ("b", 8, 12)), body=12), damaged("not a whole safetensors file: …")),
    "bytes behind": (header(tensors(("a", 0, 4)), body=64), damaged("not a whole safetensors file: …")),
    "duplicate key": (header(tensors(("a", 0, 4), ("a", 4, 8))), damaged("the header is damaged: 'a' stands there twice")),
    "cut off": (cut_off, damaged("not a whole safetensors file: …")),
    "NaN": (
        set_first(torch.nan),
        "BAD_WEIGHTS {model}/model.safetensors tensor 'bert.encoder.layer.0.output.dense.weight' holds NaN or infinity — use another copy",
    ),
    "infinity": (
        set_first(torch.inf),
        "BAD_WEIGHTS {model}/model.safetensors tensor 'bert.encoder.layer.0.output.dense.weight' holds NaN or infinity — use another copy",
    ),
    "lost layer": (
        weights(lambda w: [w.pop(k) for k in list(w) if ".layer.1." in k]),
        "WRONG_KEYS {model} the weights do not fit the architecture BertForSequenceClassification: 16 missing (bert.encoder.layer.1.attention.output.LayerNorm.bias, … — use weights and config.json of the same model",
    ),
    "another width": (
        in_json("config.json", hidden_size=32),
        "WRONG_KEYS {model} the weights do not fit the architecture BertForSequenceClassification: 35 of another shape (bert.embeddings.LayerNorm.bias, … — use weights and config.json of the same model",
    ),
    "another architecture": (
        in_json("config.json", model_type="distilbert"),
        "WRONG_KEYS {model} the weights do not fit the architecture DistilBertForSequenceClassification: 36 missing (distilbert.embeddings.LayerNorm.bias, … — use weights and config.json of the same model",
    ),
    "unknown architecture": (
        in_json("config.json", model_type="evil"),
        "ARCHITECTURE {model}/config.json model_type 'evil' is not known to transformers … — use a known model",
    ),
    "huge layer": (
        in_json("config.json", intermediate_size=10**11),
        "WRONG_KEYS {model} config.json describes 6,600,000,003,696 weights, and the files hold 6,131 — use weights and config.json of the same model",
    ),
    "huge vocabulary": (
        in_json("config.json", vocab_size=10**12),
        "WRONG_KEYS {model} config.json describes 16,000,000,005,536 weights, and the files hold 6,131 — use weights and config.json of the same model",
    ),
    "very many layers": (
        in_json("config.json", num_hidden_layers=10**9),
        "BAD_CONFIG {model}/config.json num_hidden_layers is '1000000000', expected 1 to 1000 — use config.json and weights of the same model",
    ),
    "very many labels": (
        in_json("config.json", id2label=None, label2id=None, num_labels=10**10),
        "BAD_CONFIG {model}/config.json num_labels is '10000000000', expected 1 to 100000 — use config.json and weights of the same model",
    ),
    "negative width": (
        in_json("config.json", hidden_size=-16),
        "BAD_CONFIG {model}/config.json describes no model: … — copy the model again",
    ),
    "width is text": (
        in_json("config.json", hidden_size="16"),
        "BAD_CONFIG {model}/config.json cannot be used: … — copy the model again",
    ),
    "labels are text": (
        in_json("config.json", id2label="evil"),
        "BAD_CONFIG {model}/config.json id2label is no table of labels — copy the model again",
    ),
    "labels from 1": (
        in_json("config.json", id2label={"1": "a", "2": "b"}),
        "BAD_CONFIG {model}/config.json id2label does not number its labels from 0 — number them as the head does",
    ),
    "auto_map": (in_json("config.json", auto_map=CODE), remote("auto_map")),
    "auto_map of another repository": (
        in_json("config.json", auto_map={"AutoModel": "org/evil--evil.Model"}),
        remote("auto_map"),
    ),
    "auto_map of a tokenizer": (
        in_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}),
        remote("auto_map", "tokenizer_config.json"),
    ),
    "auto_map of a processor": (
        in_json("processor_config.json", auto_map={"AutoProcessor": "evil.P"}),
        remote("auto_map", "processor_config.json"),
    ),
    "custom pipeline": (in_json("config.json", custom_pipelines={"x": {"impl": "evil.P"}}), remote("custom_pipelines")),
    "attention": (in_json("config.json", _attn_implementation="org/evil"), remote("_attn_implementation")),
    "attention, internal": (
        in_json("config.json", _attn_implementation_internal="org/evil"),
        remote("_attn_implementation_internal"),
    ),
    "attention, as an argument": (in_json("config.json", attn_implementation="org/evil"), remote("attn_implementation")),
    "attention, nested": (in_json("config.json", text_config={"attn_implementation": "org/evil"}), remote("attn_implementation")),
    "auto_map, nested": (in_json("config.json", text_config={"auto_map": CODE}), remote("auto_map")),
    "attention, in a list": (
        in_json("config.json", sub_configs=[{"_attn_implementation": "org/evil"}]),
        remote("_attn_implementation"),
    ),
    "kernels, nested": (
        in_json("config.json", text_config={"kernel_config": {"RMSNorm": "org/evil:RMSNorm"}}),
        remote("kernel_config"),
    ),
    "attention, in a tokenizer": (
        in_json("tokenizer_config.json", _attn_implementation="org/evil"),
        remote("_attn_implementation", "tokenizer_config.json"),
    ),
    "experts": (in_json("config.json", experts_implementation="org/evil"), remote("experts_implementation")),
    "kernels": (in_json("config.json", kernel_config={"RMSNorm": "org/evil:RMSNorm"}), remote("kernel_config")),
    "config in another file": (redirected, remote("configuration_files")),
    "tokenizer in another file": (
        in_json("tokenizer_config.json", fast_tokenizer_files=["tokenizer.5.0.0.json"]),
        remote("fast_tokenizer_files", "tokenizer_config.json"),
    ),
    "tokenizer outside": (tokenizer_outside, "TOKENIZER {model} cannot be loaded: … — add the model's tokenizer files"),
    "quantised": (in_json("config.json", quantization_config={"quant_method": "evil"}), remote("quantization_config")),
    "config without end": (nested("config.json"), "BAD_CONFIG {model}/config.json cannot be read: … — copy the model again"),
    "tokenizer config without end": (
        nested("tokenizer_config.json"),
        "BAD_CONFIG {model}/tokenizer_config.json cannot be read: … — copy the model again",
    ),
    "tokenizer without end": (
        nested("tokenizer.json"),
        "TOKENIZER {model} cannot be loaded: … — add the model's tokenizer files",
    ),
    "larger tokenizer": (
        bigger_tokenizer,
        "TOKENIZER {model} the tokenizer has 30 tokens and the model embeds 17 — use the tokenizer the model was trained with",
    ),
}
"""Name -> what is done to the folder, and the line: ``…`` stands for what a library says."""

HARMLESS: dict[str, Harm] = {
    "untouched": lambda folder: None,
    "flag of older releases": in_json("config.json", _attn_implementation_autoset=True, total_flos=1.5, language="en"),
}
"""What must not be mistaken for hostile."""
