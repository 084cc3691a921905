"""Retention: old versions make room, their numbers and what they were trained on stay.

1. Each version to be pruned is marked ``pruning`` in its manifest. Readers still get it; no alias can move to it any more.
2. Each alias is written again as it stands (``If-Match``). A move that looked at the versions before step 1 fails on that and
   looks again, so what the aliases say from here on cannot come to need a marked version.
3. A marked version that an alias needs after all loses its mark. Any other becomes a tombstone: the manifest with ``pruned:
   {at, actor}``; ledger, parents and facts stay.
4. The files of tombstones are deleted.

Killed in between, a version is whole and may be marked, or it is a tombstone; the next run goes on from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from transfer_learning.errors import BadInput
from transfer_learning.refs import version_of
from transfer_learning.store import documents, layout, manifests
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.manifests import Manifest
from transfer_learning.store.object_store import ObjectInfo, ObjectStore

WAYS_BACK = 2
"""How many rollbacks in a row stay possible."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """A version that is not needed any more."""

    version: int
    files: int
    bytes: int
    created: str
    outcome: Literal["found", "deleted", "kept"] = "found"
    """``kept``: an alias came to need it meanwhile."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return dataclasses.asdict(self)


def prune(objects: ObjectStore, name: str, *, keep: int, actor: str, delete: bool = False) -> list[Pruned]:
    """Find the versions of a model that nobody needs, and delete their files if asked.

    Kept are the newest versions, what an alias names, the next two rollback targets of every alias, what any of these was
    trained from, what a version of another model was trained from, and whatever the adapters among all these belong to.

    Args:
        objects: the store.
        name: of the model.
        keep: how many of the newest versions stay, at least 1.
        actor: who asks, for the tombstone.
        delete: do it; otherwise nothing at all is written.

    Returns:
        The versions, oldest first, and earlier tombstones whose files were still there, each with what became of it.

    Raises:
        BadInput: ``keep`` is less than 1, or there is no such model; or a version has lost its manifest, which tells what it was
            trained from.
        StoreError: the store failed; the same call again goes on.
    """
    if keep < 1:
        raise BadInput("BAD_KEEP", f"{keep} newest versions cannot be kept", "keep at least 1")
    for model in manifests.names(objects):
        for version in manifests.lost(objects, model):
            raise manifests.loss(objects, model, version)
    left = _left_files(objects, name)  # before the manifests: no version is younger than its files
    every = manifests.read_every(objects, name)
    if not every:
        raise BadInput("NO_VERSION", f"model {name} has no versions", manifests.what_exists(objects, name))
    live = [manifest for manifest in every if "pruned" not in manifest]
    leftover = [manifest for manifest in every if "pruned" in manifest and manifest["artifact"] in left]
    needed = _needed(objects, name, live, keep)
    chosen = [manifest for manifest in live if manifest["version"] not in needed]
    found = {manifest["version"]: _describe(manifest, left) for manifest in (*leftover, *chosen)}
    if delete:
        stale = [manifest for manifest in live if "pruning" in manifest and manifest["version"] in needed]
        buried = _bury(objects, name, [*chosen, *stale], live, keep, actor) if chosen or stale else set()
        gone = {manifest["version"] for manifest in leftover} | buried
        for version in found:
            for info in left.get(_artifact(every, version), ()) if version in gone else ():
                objects.delete(info.key)
        found = {
            version: dataclasses.replace(item, outcome="deleted" if version in gone else "kept")
            for version, item in found.items()
        }
    return [found[version] for version in sorted(found)]


def _bury(
    objects: ObjectStore, name: str, chosen: Sequence[Manifest], live: Sequence[Manifest], keep: int, actor: str
) -> set[int]:
    """Turn versions into tombstones, but those that are needed once no alias can move to them; return the tombstones."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    for manifest in chosen:
        _change(objects, name, manifest["version"], add={"pruning": {"at": at, "actor": actor}})
    AliasStore(objects).fence(name)
    needed = _needed(objects, name, live, keep)
    for manifest in chosen:
        version = manifest["version"]
        add = {} if version in needed else {"pruned": {"at": at, "actor": actor}}
        _change(objects, name, version, add=add, remove="pruning")
    return {manifest["version"] for manifest in chosen} - needed


def _change(objects: ObjectStore, name: str, version: int, *, add: Mapping[str, Any], remove: str = "") -> None:
    """Add entries to a version's manifest; a tombstone stays as it is."""
    key = layout.version_key(name, version)
    mine = False
    while not mine:
        standing = documents.read(objects, key)
        if standing is None or "pruned" in standing.body:
            return
        body = {name: value for name, value in standing.body.items() if name != remove}
        _, mine = documents.replace(objects, key, {**body, **add}, standing.etag)


def _needed(objects: ObjectStore, name: str, live: Sequence[Manifest], keep: int) -> set[int]:
    """Return the versions that must stay."""
    aliases = AliasStore(objects)
    needed = {manifest["version"] for manifest in live[-keep:]}
    for alias, found in aliases.all(name).items():
        needed |= {found.version, *aliases.ways_back(name, alias, WAYS_BACK)}
    kept = [manifest for manifest in live if manifest["version"] in needed]
    for other in manifests.names(objects):
        kept += manifests.read_all(objects, other) if other != name else []
    needed |= set(_parents(name, kept))
    while bases := set(_parents(name, (m for m in live if m["version"] in needed and manifests.holds_adapters(m)))) - needed:
        needed |= bases
    return needed


def _parents(name: str, kept: Iterable[Manifest]) -> Iterable[int]:
    """Yield the versions of a model that these versions, also of other models, were trained from."""
    for manifest in kept:
        if manifest["name"] == name:
            yield from manifest["parents"]
        base = version_of(str((manifest["facts"].get("base") or {}).get("uri", "")))
        if base and base[0] == name:
            yield base[1]


def _left_files(objects: ObjectStore, name: str) -> dict[str, list[ObjectInfo]]:
    """Return the objects of every artifact."""
    left: dict[str, list[ObjectInfo]] = {}
    for info in objects.list(f"{layout.model_prefix(name)}artifacts/"):
        left.setdefault("/".join(info.key.split("/")[:4]), []).append(info)
    return left


def _artifact(every: Iterable[Manifest], version: int) -> str:
    return next(str(manifest["artifact"]) for manifest in every if manifest["version"] == version)


def _describe(manifest: Manifest, left: Mapping[str, Sequence[ObjectInfo]]) -> Pruned:
    infos = left.get(manifest["artifact"], ())
    size = sum(info.size for info in infos)
    return Pruned(version=manifest["version"], files=len(infos), bytes=size, created=manifest["created"])
