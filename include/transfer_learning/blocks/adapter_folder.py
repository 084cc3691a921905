"""The format ``adapter``: low-rank adapters (Hu et al. 2021) and the head, as ``peft`` saves them, without their base model.

``adapter_model.safetensors`` holds ``A`` (rank, in) and ``B`` (out, rank) of each adapted weight, and the head's weights whole;
``adapter_config.json`` tells what they count. Wherever the folder is used, that of its base lies in it as ``base/``, and what is
loaded is the merged model. ``peft`` itself is not asked to load: where it finds no safetensors it unpickles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from transfer_learning.blocks import lora
from transfer_learning.blocks.backbone import architecture_of
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.safe_loading import MOST_LABELS, read_json
from transfer_learning.errors import BadInput, one_line
from transfer_learning.model_files import ADAPTER_BASE, ADAPTER_CONFIG, holds_adapters

WEIGHTS = "adapter_model.safetensors"

PREFIX = "base_model.model."
"""In front of every name: how ``peft`` wraps a model."""

LOW_RANK = (".lora_A.weight", ".lora_B.weight")

UNDERSTOOD = frozenset(
    (
        *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout"),
        *("r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
        *("init_lora_weights", "fan_in_fan_out", "megatron_core", "qalora_group_size"),
    )
)
"""Settings of ``peft`` that are read here, or change nothing; any other that is set makes another method of it."""


def config(classifier: TextClassifier, base: str, revision: str) -> dict[str, Any]:
    """Return what ``adapter_config.json`` tells of a model with adapters beside its weights.

    Args:
        classifier: the model, with the architecture's own head.
        base: name of its base on the hub, or the URI of one that is elsewhere; may be empty.
        revision: of a base on the hub.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    adapted = {name: module for name, module in classifier.model.named_modules() if isinstance(module, LoraLayer)}
    (rank, alpha), *others = {(module.r["default"], module.lora_alpha["default"]) for module in adapted.values()}
    assert not others
    told = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(adapted),
        modules_to_save=[key.rpartition(".")[2] for key in classifier.backbone.architecture.head_keys],
        task_type="SEQ_CLS",
        inference_mode=True,
        fan_in_fan_out=any(module.fan_in_fan_out for module in adapted.values()),  # type: ignore[attr-defined]
        base_model_name_or_path=base or None,
        revision=revision or None,
    ).to_dict()  # type: ignore[no-untyped-call]
    return {name: sorted(value) if isinstance(value, set) else value for name, value in told.items()}


def weights(classifier: TextClassifier) -> dict[str, torch.Tensor]:
    """Return adapters and head by the names that ``peft`` gives them in a file."""
    named = dict(classifier.named_parameters())
    chosen = [name for name in named if lora.is_adapter(name)] + list(classifier.head_parameters())
    saved = {name: name.removeprefix("model.").replace(".default.", ".") for name in chosen}
    return {f"{PREFIX}{saved[name]}": named[name].detach().cpu().contiguous() for name in chosen}


def base_of(folder: Path) -> Path:
    """Return the folder of the model that the adapters belong to.

    Raises:
        BadInput: it is not there.
    """
    base = folder / ADAPTER_BASE
    if not base.is_dir():
        what = f"holds adapters alone, and the model they belong to is not in its subfolder {ADAPTER_BASE}"
        raise BadInput("NO_BASE", what, "fetch it with --merged, or copy the base there", file=folder)
    return base


def weights_of(folder: Path) -> Path:
    """Return the folder with the weights that a model starts from: its own, or that of the lowest base below adapters.

    Raises:
        BadInput: as ``base_of``.
    """
    while holds_adapters(folder):
        folder = base_of(folder)
    return folder


def labels_of(passport: Path) -> list[str]:
    """Return the labels that the head tells apart, in order: ``peft`` keeps no names.

    Raises:
        BadInput: no passport, or none that names them.
    """
    labels = read_json(passport).get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        labels = []
    if not 0 < len(set(labels)) == len(labels) <= MOST_LABELS:
        raise BadInput("BAD_PASSPORT", "names no labels, or one twice", "publish the model again", file=passport)
    return labels


def changed(folder: Path) -> set[str]:
    """Return the names of the weights that are others than the base's: those with adapters, and the head's."""
    tensors = _read(folder)
    return {f"{module}.weight" for module in _adapted(tensors)} | {name for name in tensors if not name.endswith(LOW_RANK)}


def merge(folder: Path, model: Any) -> dict[str, tuple[int, ...]]:
    """Add a folder's adapters to the weights of its base, and put its head in the place of the base's.

    Args:
        folder: with the adapters; ``check_files`` and ``check_weights`` have seen it.
        model: the base, whole or without its head; changed in place. A head of another number of labels stays as it is.

    Returns:
        The shapes of the folder's weights of the head, as far as the model has such weights.

    Raises:
        BadInput: adapters of another method, damaged ones, or such as fit no weight.
    """
    rank, scaling, transposed = _read_config(folder / ADAPTER_CONFIG)
    tensors, own, heads = _read(folder), dict(model.named_parameters()), architecture_of(model.config).head_keys
    # Without its head a model calls its weights by shorter names.
    known = {f"{prefix}{name}": name for name in own for prefix in ("", f"{model.base_model_prefix}.")}
    strangers = [name for name in tensors if not name.endswith(LOW_RANK) and not name.startswith(heads)]
    for module in _adapted(tensors):
        weight, (a, b) = own.get(known.get(f"{module}.weight", "")), (tensors.get(f"{module}{end}") for end in LOW_RANK)
        if weight is None or a is None or b is None or not _fit(weight, a, b, rank, transposed):
            strangers.append(module)
        else:
            product = b.float() @ a.float()
            weight.data += (product.T if transposed else product) * scaling
    if strangers:
        what = f"{len(strangers)} of its names fit no weight of the base, such as {strangers[0][:120]!r}"
        raise BadInput("WRONG_KEYS", what, "use the base that they were trained on", file=folder / WEIGHTS)
    head = {known[name]: tensor for name, tensor in tensors.items() if name.startswith(heads) and name in known}
    for name, tensor in head.items():
        if own[name].shape == tensor.shape:
            own[name].data.copy_(tensor)
    return {name: tuple(tensor.shape) for name, tensor in head.items()}


def _adapted(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the modules with an adapter."""
    return sorted({name.removesuffix(end) for name in tensors for end in LOW_RANK if name.endswith(end)})


def _fit(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rank: int, transposed: bool) -> bool:
    """Return whether the product of two matrices has a weight's shape, and the rank that it should have."""
    shape = tuple(weight.shape[::-1] if transposed else weight.shape)
    return len(shape) == 2 and (*a.shape, *b.shape) == (rank, shape[1], shape[0], rank)


def _read(folder: Path) -> dict[str, torch.Tensor]:
    """Return the folder's tensors by the names of the model's modules; its files were checked."""
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        what = f"not a whole safetensors file: {one_line(str(error))[:200]}"
        raise BadInput("BAD_WEIGHTS", what, "copy it again", file=path) from None
    if strange := [key for key in tensors if not key.startswith(PREFIX)]:
        what = f"{strange[0][:120]!r} is no name that peft gives"
        raise BadInput("WRONG_KEYS", what, "publish the model again", file=path)
    return {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}


def _read_config(path: Path) -> tuple[int, float, bool]:
    """Return the rank, how many times the products count, and whether weights are (in, out), as GPT-2's are, not (out, in)."""
    values = read_json(path)
    bias = values.get("bias", "none")
    foreign = sorted(name for name, value in values.items() if value and name not in UNDERSTOOD and name != "bias")
    if values.get("peft_type") != "LORA" or bias != "none" or foreign:
        what = foreign[0] if foreign else f"peft_type {values.get('peft_type')!r}, bias {bias!r}"
        raise BadInput("BAD_CONFIG", f"asks for {what[:80]}, and only plain LoRA is merged", "merge it with peft", file=path)
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not (isinstance(rank, int) and isinstance(alpha, (int, float)) and rank > 0 and 0 < alpha < float("inf")):
        what = f"r is {json.dumps(rank)[:40]} and lora_alpha {json.dumps(alpha)[:40]}, expected numbers above 0"
        raise BadInput("BAD_CONFIG", what, "copy the model again", file=path)
    return rank, alpha / rank, bool(values.get("fan_in_fan_out"))
