"""Which number a publish gets: from the newest one that its intent saw upwards, without gaps.

An absent ``versions/N.json`` is created from the intent, one with the same publish id is the same publish, anyone else's is
passed by. Then ``fingerprints/<fingerprint>.json`` says the number, also should the manifest be lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from transfer_learning.errors import BadInput, StoreUnreachable
from transfer_learning.store import documents, layout, manifests
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.manifests import Manifest
from transfer_learning.store.object_store import ObjectStore

READ_AGAIN = 2
"""How often a step of the walk is read again where there is no answer: whoever walked anew might never overtake busy others."""


def newest(objects: ObjectStore, name: str) -> int:
    """Return the highest number that any version of a model had, 0 for none.

    Fingerprints, aliases and verdicts count too: were the manifest that they speak of gone, and its number given to another
    version, that one would be live, and vouched for, at once. A fingerprint finds a later version than the newest that is there
    only if it was written after that one.

    Raises:
        BadInput: an alias is lost or damaged.
    """
    prefix = layout.evaluations_prefix(name)
    judged = (info.key.removeprefix(prefix).partition("/")[0] for info in objects.list(prefix))
    aliased = (alias.version for alias in AliasStore(objects).all(name).values())
    known = manifests.listed(objects, name)
    since = known[max(known)].modified if known else None
    given = manifests.numbers_given(objects, name, since=since).values()
    return max([*known, *given, *map(int, filter(str.isdecimal, judged)), *aliased], default=0)


def commit(objects: ObjectStore, intent: Mapping[str, Any], *, uploaded: bool) -> Manifest:
    """Make the version of a publish, or find it, and return its manifest.

    Where its fingerprint knows the number already, the manifest was lost since, and is written again under that one.

    Args:
        objects: the store.
        intent: what stands.
        uploaded: its files have just been uploaded, and so it has no number yet.

    Raises:
        BadInput: the version has been pruned, or the files are gone.
    """
    manifest, name = intent["manifest"], intent["manifest"]["name"]
    version = (None if uploaded else _given(objects, manifest)) or int(intent["newest"]) + 1
    while True:
        key = layout.version_key(name, version)
        document = None if uploaded else _standing(objects, key)
        if document is None:
            if not uploaded:
                _look_for_files(objects, manifest)
            document, _ = documents.create(objects, key, {**manifest, "version": version})
        if document.body["publish_id"] == intent["publish_id"]:
            break
        version += 1
    if "pruned" in document.body:
        what = f"this publish was version {version} of {name}, which has been pruned"
        raise BadInput("VERSION_PRUNED", what, "start a new run")
    remember(objects, document.body)
    return document.body


def remember(objects: ObjectStore, manifest: Manifest) -> None:
    """Let the fingerprint find this version, unless it already finds a newer one."""
    key = layout.fingerprint_key(manifest["name"], manifest["fingerprint"])
    body = {name: manifest[name] for name in ("fingerprint", "version", "publish_id")}
    pointer, mine = documents.restore(objects, key, body)
    while not mine and pointer.body["version"] < manifest["version"]:
        pointer, mine = documents.replace(objects, key, body, pointer.etag)


def _given(objects: ObjectStore, manifest: Manifest) -> int | None:
    """Return the number that the fingerprint of a publish knows, if it is this publish that it finds."""
    with contextlib.suppress(documents.Damaged):
        pointer = documents.read(objects, layout.fingerprint_key(manifest["name"], manifest["fingerprint"]))
        if pointer is not None and pointer.body["publish_id"] == manifest["publish_id"]:
            return int(pointer.body["version"])
    return None


def _standing(objects: ObjectStore, key: str) -> documents.Document | None:
    for _ in range(READ_AGAIN):
        with contextlib.suppress(StoreUnreachable):
            return documents.read(objects, key)
    return documents.read(objects, key)


def _look_for_files(objects: ObjectStore, manifest: Manifest) -> None:
    """Refuse to make a version of files that are gone, as after a publish whose version was pruned and then lost."""
    prefix = f"{manifest['artifact']}/"
    stored = {info.key.removeprefix(prefix) for info in objects.list(prefix)}
    if lacking := {entry["path"] for entry in manifest["files"]} - stored:
        what = f"of this publish of {manifest['name']} {min(lacking)} is gone"
        raise BadInput("FILES_GONE", what, "start a new run", file=objects.full_uri(manifest["artifact"]))
