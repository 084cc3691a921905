"""Checks on a model's files before any library opens them: what they name, and the shape of their headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from transfer_learning.errors import BadInput, one_line

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""


def check_files(folder: Path) -> None:
    """Check the weight files and their index.

    Raises:
        BadInput: an index that names anything but safetensors files of this very folder (a library would unpickle or follow it),
            or a safetensors header that is too long, is no JSON, or names a tensor twice.
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
        _strict_json(file.read(length), path)


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
