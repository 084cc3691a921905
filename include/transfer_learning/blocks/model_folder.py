"""Writing a published model: a plain Hugging Face folder, or adapters alone, with passport and card. Safetensors, no code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from transfer_learning.blocks import adapter_folder, lora, model_card
from transfer_learning.blocks.head import PooledHead, TextClassifier
from transfer_learning.blocks.pooling import CONCAT
from transfer_learning.disk import room_for
from transfer_learning.model_files import ADAPTER_CONFIG

FORMAT = 1

PASSPORT = "passport.json"
"""How a published model was made, in JSON."""

OWN = ("format", "model_format", "labels", "max_length", "heads")
"""Entries of the passport that tell of the folder itself; what a folder is written from has all others."""

TRANSFORMER, POOLING, NORMALIZE, DENSE = "", "1_Pooling", "2_Normalize", "2_Dense"
"""Folders of the modules of a sentence-transformers model; the one that scales vectors to length 1 has no settings."""

MODULES = (
    (TRANSFORMER, "sentence_transformers.models.Transformer"),
    (POOLING, "sentence_transformers.models.Pooling"),
    (NORMALIZE, "sentence_transformers.models.Normalize"),
    (DENSE, "sentence_transformers.models.Dense"),
)
"""The names that every release since 2.0 understands."""

MODES = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "last_token": "lasttoken"}
"""What sentence-transformers calls our poolings."""

PRIVATE = ("name_or_path", "_name_or_path", "is_local", "local_files_only", "tokenizer_file")
"""What libraries write into a config about the machine it was made on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """What a folder is made of."""

    classifier: TextClassifier
    tokenizer: Any
    labels: list[str]
    max_length: int
    frozen: frozenset[str]
    """Names of the weights that training did not touch."""
    passport: Mapping[str, Any]
    """Everything of the passport but ``OWN``."""

    @property
    def format(self) -> str:
        """``transformers``, ``sentence_transformers``, or ``adapter`` where adapters stand beside the weights."""
        if lora.is_attached(self.classifier):
            return "adapter"
        return "transformers" if self.classifier.pooled_head is None else "sentence_transformers"


def write(folder: Path, published: Published) -> None:
    """Write the whole folder; it must not exist."""
    folder.mkdir(parents=True)
    head_file = _write_adapters(folder, published) if published.format == "adapter" else _write_model(folder, published)
    passport = {
        "format": FORMAT,
        "model_format": published.format,
        "labels": published.labels,
        "max_length": published.max_length,
        "heads": [_head(published, head_file)],
        **published.passport,
    }
    write_json(folder / PASSPORT, passport)
    (folder / "README.md").write_text(model_card.render(passport), encoding="utf-8")


def _write_adapters(folder: Path, published: Published) -> str:
    """Write adapters, head and tokenizer; return the file that holds what was trained."""
    base = published.passport["base"]
    name, revision = model_card.hub_name(base)
    _save(folder / adapter_folder.WEIGHTS, adapter_folder.weights(published.classifier))
    write_json(folder / ADAPTER_CONFIG, adapter_folder.config(published.classifier, name or str(base.get("uri") or ""), revision))
    write_tokenizer(folder, published.tokenizer, published.max_length)
    return adapter_folder.WEIGHTS


def _write_model(folder: Path, published: Published) -> str:
    """Write the whole model and its tokenizer; return the file that holds the head."""
    model, head = published.classifier.model, published.classifier.pooled_head
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    file = write_weights(folder, weights, frozen={name.removeprefix("model.") for name in published.frozen})
    write_configs(folder, model, published.tokenizer, published.max_length)
    return file if head is None else _write_modules(folder, head, published.max_length)


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor], frozen: set[str]) -> str:
    """Write the transformer's weights and return the file that holds what was trained.

    Frozen tensors lie in a shard of their own, so that a second version's store copies it instead of uploading it.
    """
    still = {name: tensor for name, tensor in weights.items() if name in frozen}
    moved = {name: tensor for name, tensor in weights.items() if name not in frozen}
    if not still or not moved:
        _save(folder / "model.safetensors", weights)
        return "model.safetensors"
    index: dict[str, str] = {}
    for number, part in enumerate((still, moved), start=1):
        name = f"model-{number:05d}-of-00002.safetensors"
        _save(folder / name, part)
        index |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for tensor in weights.values())
    parameters = sum(tensor.numel() for tensor in weights.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total, "total_parameters": parameters}, "weight_map": dict(sorted(index.items()))},
    )
    return "model-00002-of-00002.safetensors"


def write_configs(folder: Path, model: Any, tokenizer: Any, max_length: int) -> None:
    """Write what the library reads beside the weights: the configuration and the tokenizer with the longest input in tokens."""
    write_config(folder, model)
    write_tokenizer(folder, tokenizer, max_length)


def write_config(folder: Path, model: Any) -> None:
    """Write config.json, which names the class that loads the weights."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    _strip(folder / "config.json")


def write_tokenizer(folder: Path, tokenizer: Any, max_length: int) -> None:
    """Write the tokenizer with the longest input in tokens."""
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)
    _strip(folder / "tokenizer_config.json")


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON; NaN is refused."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _write_modules(folder: Path, head: PooledHead, max_length: int) -> str:
    """Add what makes a sentence-transformers model of the folder; return the head's file."""
    used = [module for module in MODULES if head.normalize or module[0] != NORMALIZE]
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(used)]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    for path in (POOLING, DENSE):
        (folder / path).mkdir()
    width, labels = head.linear.in_features, head.linear.out_features
    kinds = CONCAT if head.pooling == "concat" else (head.pooling,)
    modes = {f"pooling_mode_{name}": kind in kinds for kind, name in MODES.items()}
    write_json(folder / POOLING / "config.json", {"word_embedding_dimension": width // len(kinds), **modes})
    dense = {"in_features": width, "out_features": labels, "bias": True}
    write_json(folder / DENSE / "config.json", dense | {"activation_function": "torch.nn.modules.linear.Identity"})
    weights = {f"linear.{name}": tensor.detach().cpu().contiguous() for name, tensor in head.linear.state_dict().items()}
    _save(folder / DENSE / "model.safetensors", weights)
    return f"{DENSE}/model.safetensors"


def _head(published: Published, file: str) -> dict[str, Any]:
    head = published.classifier.pooled_head
    last = len(published.classifier.backbone.blocks) - 1
    return {
        "name": "label",
        "kind": "classification",
        "labels": published.labels,
        "pooling": "architecture" if head is None else head.pooling,
        "normalize": head is not None and head.normalize,
        "layers": [last],
        "file": file,
    }


def _save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    with room_for(path, sum(tensor.nbytes for tensor in tensors.values())):
        save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library leaves it to its owner alone, whatever the umask


def _strip(path: Path) -> None:
    """Take out of a config what libraries write about the machine it was made on."""
    values = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {name: value for name, value in values.items() if name not in PRIVATE})
