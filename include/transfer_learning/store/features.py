"""Features of frozen base models: immutable parts that rows are found in by the hash of their input, and sets that name parts.

``features/cache/<key>/part-…`` holds the features of some rows. ``index-…`` of the same name goes up after it and holds the
hashes of its inputs, 32 bytes each, sorted: a part without its index is not looked at. What was read wrong twice is marked by
``damaged-…`` and left out from then on, until somebody computes the same part again. A set names the parts of one extraction.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from transfer_learning.errors import BadInput, ObjectMissing
from transfer_learning.feature_files import PART, read_hashes
from transfer_learning.hashes import Hashes, sha256_of
from transfer_learning.store import documents, layout
from transfer_learning.store.cache import Cache
from transfer_learning.store.files import DOWNLOADS, whole_file
from transfer_learning.store.object_store import ObjectStore

THREADS = 4
WIDTH = 32
"""Bytes of a hash."""

log = logging.getLogger(__name__)


class FeatureStore:
    """Everything below ``features/``.

    Args:
        objects: the object store.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def stage(self, key: str, wanted: Hashes, destination: Path, cache: Cache | None = None) -> list[str]:
        """Lay down every part that holds one of the wanted inputs; what is damaged is named in the log and left out.

        Args:
            key: of the base model and the settings; see ``identity.features_key``.
            wanted: hashes of inputs, sorted.
            destination: folder for the parts, made when it is missing.
            cache: content-addressed files on this machine.

        Returns:
            The names of the parts.
        """
        destination.mkdir(parents=True, exist_ok=True)
        stored = self._sizes(key)

        def lay_down(name: str) -> bool:
            part, target = layout.feature_part_key(key, name), destination / name
            try:
                if not _any_of(self._index(key, name), wanted):
                    return False
                self._receive(key, name, target, cache)
                if stored.get(part) != target.stat().st_size:  # this machine's cache still held what the store has lost
                    self._objects.upload(part, target)
            except _Damaged as damage:
                self._mark(key, name, f"{damage}: its rows are computed again")
                return False
            return True

        names = _readable(key, stored)
        with ThreadPoolExecutor(THREADS) as pool:
            return [name for name, laid in zip(names, pool.map(lay_down, names), strict=True) if laid]

    def put_part(self, key: str, path: Path) -> int:
        """Upload a finished part, then its index, and return the bytes; 0 where both are there and were not found damaged.

        Raises:
            BadInput: the file is not what its name says.
        """
        name = path.name
        part, index, damage = (
            place(key, name) for place in (layout.feature_part_key, layout.feature_index_key, layout.feature_damage_key)
        )
        if sha256_of(path) != layout.feature_part_sha256(name):
            raise BadInput("HASH_MISMATCH", "the part is not what its name says", "extract the features again", file=path)
        hashes = np.unique(read_hashes(path)).tobytes()
        size = path.stat().st_size
        damaged = self._objects.exists(damage)
        if not damaged and self._size(part) == size and self._holds(index, hashes):
            return 0
        self._objects.upload(part, path)
        self._objects.put(index, hashes)
        if damaged:
            self._objects.delete(damage)
        return size + len(hashes)

    def publish(self, digest: str, manifest: Mapping[str, Any], folders: Iterable[Path] = ()) -> dict[str, Any]:
        """Name the parts of one extraction, and return the manifest that stands.

        Whoever comes first is adopted, unless that manifest is damaged, or one of the parts named there is gone or damaged.

        Args:
            digest: fingerprint of the extraction.
            manifest: ``cache`` (the key), ``precision``, ``width``, ``rows``, ``parts`` and what else tells of it.
            folders: with parts on this machine: those that the store lacks go up.

        Raises:
            ObjectMissing: a part is gone from the store, and is not on this machine.
        """
        place = layout.feature_set_key(digest)
        if lacking := self._lacking(manifest):
            for path in (path for folder in folders for name in lacking if (path := folder / name).exists()):
                self.put_part(manifest["cache"], path)
            if lacking := self._lacking(manifest):
                what = f"{lacking[0]} is gone from the store since it was found there; a retry computes its rows again"
                raise ObjectMissing(what)
        document, mine = documents.restore(self._objects, place, manifest)
        if not mine and (not document.sealed or self._lacking(document.body)):
            document, _ = documents.replace(self._objects, place, manifest, document.etag)
        return documents.plain(document)

    def find(self, digest: str) -> dict[str, Any] | None:
        """Return the manifest of a set whose parts are all there, or None."""
        manifest = self._read(digest)
        return manifest if manifest is not None and not self._lacking(manifest) else None

    def manifest(self, digest: str) -> dict[str, Any]:
        """Return the manifest of a set.

        Raises:
            BadInput: no such set, or it is damaged.
        """
        manifest = self._read(digest)
        if manifest is None:
            what = f"there are no features {digest[:12]} in this store"
            raise BadInput("NO_FEATURES", what, "run the extraction again", file=self._objects.uri)
        return manifest

    def fetch(self, digest: str, *, destination: Path, cache: Cache | None = None) -> Path:
        """Lay down every part of a set, verified; parts that another set has in common with it may be there already.

        Args:
            digest: of the set.
            destination: made when it is missing.
            cache: content-addressed files on this machine.

        Raises:
            BadInput: no such set, or a part is missing or damaged; the next run of the extraction computes its rows again.
        """
        manifest = self.manifest(digest)
        key = manifest["cache"]
        destination.mkdir(parents=True, exist_ok=True)

        def lay_down(part: Mapping[str, Any]) -> None:
            place = layout.feature_part_key(key, part["name"])
            target = destination / part["name"]
            try:
                if not target.exists():
                    self._receive(key, part["name"], target, cache)
            except _Damaged as damage:
                self._mark(key, part["name"], str(damage))
                fix = "run the extraction again: it computes the rows of this part anew"
                raise BadInput("BROKEN_FEATURES", f"{damage}", fix, file=self._objects.full_uri(place)) from None

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lay_down, manifest["parts"]))
        return destination

    def _read(self, digest: str) -> dict[str, Any] | None:
        """Return the manifest of a set, or None; one that is damaged is named in the log, and the next extraction replaces it."""
        place = layout.feature_set_key(digest)
        with contextlib.suppress(documents.Damaged):
            document = documents.read(self._objects, place)
            if document is None:
                return None
            if document.sealed:
                return documents.plain(document)
        what = "is not as this release writes it: the next extraction writes it again"
        log.warning("FEATURES DAMAGED %s %s", self._objects.full_uri(place), what)
        return None

    def _lacking(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return the names of a set's parts that are not there in their size, have no index, or were found damaged."""
        if not manifest["parts"]:
            return []
        key, stored = manifest["cache"], self._sizes(manifest["cache"])
        return [
            part["name"]
            for part in manifest["parts"]
            if stored.get(layout.feature_part_key(key, part["name"])) != part["bytes"]
            or layout.feature_index_key(key, part["name"]) not in stored
            or layout.feature_damage_key(key, part["name"]) in stored
        ]

    def _holds(self, place: str, data: bytes) -> bool:
        """Return whether these bytes stand there; others in their place are named in the log."""
        try:
            found = self._objects.get(place).data == data
        except ObjectMissing:
            return False
        if not found:
            log.warning("FEATURES DAMAGED %s names other rows than its part holds: written again", self._objects.full_uri(place))
        return found

    def _size(self, place: str) -> int | None:
        """Return the bytes of one object, or None without it; what else the key holds is not listed."""
        return next((info.size for info in self._objects.list(place) if info.key == place), None)

    def _sizes(self, key: str) -> dict[str, int]:
        """Return the bytes of every object of a key."""
        return {info.key: info.size for info in self._objects.list(layout.features_prefix(key))}

    def _index(self, key: str, name: str) -> Hashes:
        """Return the hashes of a part's inputs, sorted."""
        for _ in range(DOWNLOADS):
            try:
                data = self._objects.get(layout.feature_index_key(key, name)).data
            except ObjectMissing:
                break
            if data and len(data) % WIDTH == 0:
                hashes: Hashes = np.frombuffer(data, dtype=f"S{WIDTH}")
                if (hashes[:-1] < hashes[1:]).all():
                    return hashes
        raise _Damaged("its index is damaged")

    def _receive(self, key: str, name: str, target: Path, cache: Cache | None) -> None:
        """Download one part and check it."""
        sha256 = layout.feature_part_sha256(name)

        def receive(path: Path) -> None:
            for _ in range(DOWNLOADS):
                self._objects.download(layout.feature_part_key(key, name), path)
                if sha256_of(path) == sha256:
                    return
            raise _Damaged("it is damaged")

        try:
            if cache is not None:
                cache.fetch(sha256, receive, link=target)
            else:
                with whole_file(target) as temporary:
                    receive(temporary)
        except ObjectMissing:
            raise _Damaged("it is missing") from None

    def _mark(self, key: str, name: str, what: str) -> None:
        """Say what is wrong, and have the part left out from now on."""
        log.warning("FEATURES DAMAGED %s %s", self._objects.full_uri(layout.feature_part_key(key, name)), what)
        self._objects.put(layout.feature_damage_key(key, name), what.encode())


class _Damaged(Exception):
    """A part, or its index, is not what was written."""


def _readable(key: str, stored: Iterable[str]) -> list[str]:
    """Return the names of the parts that have an index and no mark."""
    prefix = f"{layout.features_prefix(key)}index-"
    names = [f"part-{place.removeprefix(prefix)}.parquet" for place in stored if place.startswith(prefix)]
    names = [name for name in names if PART.fullmatch(name)]  # anything else is not ours
    return [name for name in names if layout.feature_damage_key(key, name) not in stored]


def _any_of(hashes: Hashes, wanted: Hashes) -> bool:
    """Return whether one of the hashes is wanted; both are sorted."""
    if not len(wanted):
        return False
    places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    return bool((wanted[places] == hashes).any())
