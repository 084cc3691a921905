"""Version manifests: ``versions/000042.json`` is the only commit of a publish. Reading them, and naming what there is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar

from transfer_learning.errors import BadInput, nearest
from transfer_learning.model_files import ADAPTER_CONFIG
from transfer_learning.store import documents, layout
from transfer_learning.store.object_store import ObjectInfo, ObjectStore

Manifest = dict[str, Any]
Item = TypeVar("Item")
Found = TypeVar("Found")

VERSION_FILE = re.compile(r"(\d{6,})\.json", re.ASCII)
READERS = 8
NAMED = 20
"""How many versions an error names at most."""


def names(objects: ObjectStore) -> list[str]:
    """Return the models that have a version, in order."""
    found = (info.key.split("/") for info in objects.list("models/"))
    return sorted({parts[1] for parts in found if len(parts) == 4 and parts[2] == "versions"})


def numbers(objects: ObjectStore, name: str) -> list[int]:
    """Return the version numbers of a model, oldest first, pruned ones included."""
    return sorted(listed(objects, name))


def listed(objects: ObjectStore, name: str) -> dict[int, ObjectInfo]:
    """Return the objects that hold the manifests and tombstones of a model, by version number."""
    prefix = layout.versions_prefix(name)
    found = ((VERSION_FILE.fullmatch(info.key.removeprefix(prefix)), info) for info in objects.list(prefix))
    return {int(match[1]): info for match, info in found if match}


def read(objects: ObjectStore, name: str, version: int) -> Manifest | None:
    """Return the manifest of a version, or its tombstone, which has the key ``pruned``; None when there is no such number."""
    document = documents.read(objects, layout.version_key(name, version)) if version > 0 else None
    return document.body if document else None


def read_all(objects: ObjectStore, name: str) -> list[Manifest]:
    """Return every manifest of a model, oldest first, without pruned versions."""
    return [manifest for manifest in read_every(objects, name) if "pruned" not in manifest]


def read_every(objects: ObjectStore, name: str) -> list[Manifest]:
    """Return every manifest and tombstone of a model, oldest first."""
    found = _each(lambda version: read(objects, name, version), numbers(objects, name))
    return [manifest for manifest in found if manifest]


def numbers_given(objects: ObjectStore, name: str, since: datetime | None = None) -> dict[str, int]:
    """Return the number of each publish that a fingerprint finds, whether or not its manifest is there.

    Args:
        objects: the store.
        name: of the model.
        since: leave out what was written before, by the store's times.
    """

    def pointer(key: str) -> documents.Document | None:
        with contextlib.suppress(documents.Damaged):
            return documents.read(objects, key)
        return None

    infos = objects.list(layout.fingerprints_prefix(name))
    found = _each(pointer, [info.key for info in infos if since is None or info.modified >= since])
    return {document.body["publish_id"]: document.body["version"] for document in found if document}


def lost(objects: ObjectStore, name: str) -> list[int]:
    """Return the numbers that fingerprints name and that have no manifest any more, in order."""
    return sorted(set(numbers_given(objects, name).values()) - set(numbers(objects, name)))


def loss(objects: ObjectStore, name: str, version: int, known_by: str = "published") -> BadInput:
    """Return what is to be said of a version that was there and whose manifest is gone."""
    return BadInput(
        "LOST_VERSION",
        f"version {version} of {name} was {known_by}, and its manifest is gone",
        "restore it from a backup, or run `transfer-learning gc --older-than PT1H --delete`, which writes it again",
        file=objects.full_uri(layout.version_key(name, version)),
    )


def require(objects: ObjectStore, name: str, version: int, error: type[BadInput] = BadInput) -> Manifest:
    """Return the manifest of a version that is there.

    Raises:
        BadInput: no such model or version, or a pruned one; what exists is named. ``error`` is a subclass to raise instead.
    """
    manifest = read(objects, name, version)
    if manifest is not None and "pruned" not in manifest:
        return manifest
    if manifest is not None:
        raise error("VERSION_PRUNED", f"version {version} of model {name} was pruned", what_exists(objects, name))
    raise error("NO_VERSION", f"model {name} has no version {version}", what_exists(objects, name))


def holds_adapters(manifest: Manifest) -> bool:
    """Return whether a version is adapters alone, which are nothing without the base that they were trained on."""
    return any(file["path"] == ADAPTER_CONFIG for file in manifest["files"])


def _each(look: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """Return what there is of each, several looked up at a time."""
    if READERS == 1:
        return [look(item) for item in items]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(look, items))


def what_exists(objects: ObjectStore, name: str) -> str:
    """Return the part of an error's line that names the versions of a model, or the models when there is no such model."""
    versions = [str(manifest["version"]) for manifest in read_all(objects, name)]
    if versions:
        more = f"{len(versions) - NAMED} older ones and " if len(versions) > NAMED else ""
        return f"versions: {more}{', '.join(versions[-NAMED:])}"
    models = names(objects)
    return f"models: {', '.join(models[:NAMED])}{nearest(name, models)}" if models else "there are no models yet"
