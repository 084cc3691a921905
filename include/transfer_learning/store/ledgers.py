"""The ledgers of versions, in parts: a version uploads the rows that it adds, and names earlier versions' parts for the others.

Naming them is enough, since nothing deletes a part that a version names, be that version pruned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transfer_learning.errors import BadInput, ObjectMissing
from transfer_learning.ledger_files import read_ledger, split
from transfer_learning.store import artifacts
from transfer_learning.store.manifests import Manifest
from transfer_learning.store.object_store import ObjectStore

Part = Mapping[str, Any]
"""``{key, path, bytes, sha256}``; an earlier release wrote ledgers of one part, of which it knew the key alone."""


def parts_of(manifest: Manifest) -> list[Part]:
    """Return the parts of a version's ledger; none where it was published without one."""
    ledger = manifest["ledger"] or []
    return [{"key": ledger}] if isinstance(ledger, str) else ledger


def upload(objects: ObjectStore, ledger: Path, key: str, known: Iterable[Part], scratch: Path) -> tuple[list[Part], int]:
    """Bring a ledger into the store, but for the rows in parts that lie there.

    Args:
        objects: the store.
        ledger: Parquet file with the row keys and content keys.
        key: of the new part; nobody else writes to it.
        known: parts of other versions; one that is missing or damaged is not relied on.
        scratch: an empty folder.

    Returns:
        The ledger's parts, and how many bytes were uploaded.

    Raises:
        StoreError: the new part did not arrive as it was sent; a retry may help.
    """
    usable = []
    for part in {part["key"]: part for part in known if "sha256" in part}.values():
        with contextlib.suppress(BadInput, ObjectMissing):
            usable.append((part, _read(objects, part, scratch)))
    own, named = split(read_ledger(ledger), [table for _, table in usable])
    found, uploaded = [usable[place][0] for place in named], 0
    if own.num_rows:
        path = scratch / "own.parquet"
        pq.write_table(own, path)
        entry = artifacts.describe_file(path, "ledger.parquet")
        uploaded = artifacts.upload_file(objects, path, key, entry, scratch)
        found.insert(0, {"key": key, **entry})
    return found, uploaded


def fetch(objects: ObjectStore, parts: Iterable[Part], path: Path, scratch: Path) -> None:
    """Download a ledger as one file, every part verified.

    Args:
        objects: the store.
        parts: of the ledger.
        path: of the file.
        scratch: a folder that keeps the parts, for the ledgers of other versions that name them too.

    Raises:
        BadInput: a part is not what was published, or cannot be read.
        StoreError: the store failed, or a part is missing there.
    """
    pq.write_table(pa.concat_tables([_read(objects, part, scratch) for part in parts]), path)


def _read(objects: ObjectStore, part: Part, scratch: Path) -> pa.Table:
    path = scratch / PurePosixPath(part["key"]).name
    if not path.exists():
        arriving = path.with_suffix(".part")
        if "sha256" in part:
            artifacts.fetch_file(objects, part["key"], part, arriving)
        else:
            objects.download(part["key"], arriving)
        arriving.replace(path)
    return read_ledger(path)
