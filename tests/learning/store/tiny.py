"""Model folders of a few bytes, and publishing them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from transfer_learning.refs import ModelRef
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.models import ModelStore
from transfer_learning.store.moves import Move
from transfer_learning.store.object_store import ObjectStore


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def write_safetensors(path: Path, values: bytes) -> None:
    header = json.dumps({"weight": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + values)


def write_model(folder: Path, seed: object = 0) -> Path:
    """A folder whose head differs with the seed, and whose tokenizer and frozen weights never do."""
    write_safetensors(folder / "frozen.safetensors", b"frozen" * 1000)
    write_safetensors(folder / "head" / "model.safetensors", digest(seed).encode())
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny"}))
    (folder / "vocab.txt").write_text("[PAD]\ncat\ndog\n")
    return folder


def write_ledger(path: Path, *keys: str) -> Path:
    rows = [hashlib.sha256(key.encode()).digest() for key in keys]
    column = pyarrow.array(rows, pyarrow.binary(32))
    pyarrow.parquet.write_table(pyarrow.table({"row_key": column, "content_key": column}), path)
    return path


def publish(objects: ObjectStore, folder: Path, seed: object, name: str = "news", **options: Any) -> tuple[ModelRef, int]:
    """Publish what the seed makes: the same seed is the same task and the same training."""
    settings = {"publish_id": digest("publish", seed), "fingerprint": digest("fingerprint", seed), "facts": {}} | options
    return ModelStore(objects).publish(name=name, folder=write_model(folder / digest(seed)[:8], seed), **settings)


def promote(aliases: AliasStore, version: int, **options: Any) -> Move:
    """Promote on top of whatever stands there, with an id of its own, unless told otherwise."""
    current = aliases.read(options.get("name", "news"), options.get("alias", "champion"))
    settings = {
        "name": "news",
        "promote_id": f"promote-{version}-{current.generation if current else 0}",
        "actor": "ada",
        "reason": "better",
        "expected_generation": current.generation if current else None,
        "as_of": None,
    }
    return aliases.promote(version=version, **{**settings, **options})
