"""Checks on a model's files before any library opens them: what they name, and the shape of their headers."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transfer_learning.errors import BadInput, one_line
from transfer_learning.model_files import ADAPTER_CONFIG

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""

CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""Files whose keys steer a library."""

STEERING = frozenset(
    (
        *("auto_map", "custom_pipelines", "custom_generate"),  # classes from the folder's or a hub's code
        *("attn_implementation", "experts_implementation", "kernel_config", "use_kernels"),  # kernels from a hub
        *("transformers_weights", "configuration_files", "fast_tokenizer_files"),  # other files than those checked here
        *("quantization_config", "distributed_config", "fusion_config"),  # other code than the architecture's
    )
)
STEERING_STARTS = ("_attn_implementation", "_experts_implementation")
HARMLESS = frozenset(("_attn_implementation_autoset",))
"""A flag without effect that older releases of transformers wrote."""

MOST_LABELS = 100_000
MOST_LAYERS = 1_000


def check_configs(folder: Path) -> dict[str, Any]:
    """Check every config file, and return what config.json holds.

    Raises:
        BadInput: no config.json, one that cannot be read, one that asks for code or other files, or impossible sizes.
    """
    if (folder / ADAPTER_CONFIG).exists():
        raise _remote(folder / ADAPTER_CONFIG, "it is an adapter of another model")
    check_keys(folder)
    path = folder / "config.json"
    if not path.exists():
        raise BadInput("NO_BASE", "there is no config.json", "name a folder that transformers can load", file=folder)
    values = read_json(path)
    labels = values.get("id2label")
    if not isinstance(labels, (dict, type(None))):
        raise BadInput("BAD_CONFIG", "id2label is no table of labels", "copy the model again", file=path)
    if labels and set(labels) != set(map(str, range(len(labels)))):
        raise BadInput("BAD_CONFIG", "id2label does not number its labels from 0", "number them as the head does", file=path)
    layers = dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer"), MOST_LAYERS)
    for key, most in ({"num_labels": MOST_LABELS} | layers).items():
        count = values.get(key, 1)
        if count is not None and not (isinstance(count, int) and 0 < count <= most):
            what = f"{key} is {str(count)[:40]!r}, expected 1 to {most}"
            raise BadInput("BAD_CONFIG", what, "use config.json and weights of the same model", file=path)
    return values


def check_keys(folder: Path) -> None:
    """Check the keys of every config file.

    Raises:
        BadInput: a file that cannot be read, or that asks for code or other files.
    """
    for name in CONFIGS:
        if (folder / name).exists():
            for key in _keys(read_json(folder / name)):
                if key not in HARMLESS and (key in STEERING or key.startswith(STEERING_STARTS)):
                    raise _remote(folder / name, key)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        BadInput: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput("BAD_CONFIG", f"cannot be read: {one_line(str(error))[:200]}", "copy the model again", file=path) from None
    if not isinstance(value, dict):
        raise BadInput("BAD_CONFIG", "is not a JSON object", "copy the model again", file=path)
    return value


def count_weights(folder: Path) -> int:
    """Return how many numbers the weight files hold; call ``check_files`` first."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            described = json.loads(file.read(length))
        shapes = (value["shape"] for name, value in described.items() if name != "__metadata__")
        total += sum(math.prod(shape) for shape in shapes)
    return total


def check_files(folder: Path) -> None:
    """Check the weight files and their index.

    Raises:
        BadInput: an index that names anything but safetensors files of this very folder (a library would unpickle or follow it),
            or a safetensors header that is too long, is no JSON, names a tensor twice, or one without a shape.
    """
    for path in sorted(folder.glob("*.index.json")):
        named = _strict_json(path.read_bytes(), path).get("weight_map", {})
        for name in sorted(set(map(str, named.values()))) if isinstance(named, dict) else [""]:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise BadInput(
                    "BAD_WEIGHTS",
                    f"the index names {name[:80]!r}, which is no safetensors file of this folder",
                    "use another copy",
                    file=path,
                )
    for path in sorted(folder.glob("*.safetensors")):
        _check_header(path)


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER, path.stat().st_size - 8):
            raise BadInput("BAD_WEIGHTS", f"the header claims {length} bytes", "copy it again", file=path)
        described = _strict_json(file.read(length), path)
    for name, tensor in described.items():
        shape = tensor.get("shape") if isinstance(tensor, dict) else None
        if name != "__metadata__" and not (isinstance(shape, list) and all(isinstance(size, int) for size in shape)):
            what = f"the header tells no shape of {name[:80]!r}"
            raise BadInput("BAD_WEIGHTS", what, "copy it again", file=path)


def _strict_json(data: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object that names nothing twice: two readers could take a different one of the two."""
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            "BAD_WEIGHTS", f"the header is damaged: {one_line(str(error))[:120]}", "copy it again", file=path
        ) from None
    if not isinstance(value, dict):
        raise BadInput("BAD_WEIGHTS", "the header is not a JSON object", "copy it again", file=path)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:80]!r} stands there twice")
        found[key] = value
    return found


def _keys(value: Any) -> Iterator[str]:
    """Yield every key at any depth; the names of labels are nobody's keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key != "label2id":
                yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _remote(path: Path, what: str) -> BadInput:
    fix = "use a model that runs on transformers alone"
    return BadInput("REMOTE_CODE", f"asks for code of its own ({what})", fix, file=path)
