"""Snapshots of datasets: content-addressed parts, a manifest for each snapshot, and the split rule of each name."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from transfer_learning.errors import BadInput, ObjectMissing, nearest
from transfer_learning.hashes import sha256_of
from transfer_learning.settings import canonical_json
from transfer_learning.specs import check_name
from transfer_learning.store import documents
from transfer_learning.store.cache import Cache
from transfer_learning.store.documents import Document
from transfer_learning.store.files import DOWNLOADS, check_sha256
from transfer_learning.store.object_store import ObjectStore, OnBytes

THREADS = 4
ROOT = "datasets"
LATEST = "latest.json"

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class DatasetStore:
    """Everything below ``datasets/``.

    Args:
        objects: the object store.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def names(self) -> list[str]:
        """Return the names of the datasets that have a snapshot."""
        keys = (info.key.split("/") for info in self._objects.list(f"{ROOT}/"))
        return [parts[1] for parts in keys if len(parts) == 3 and parts[2] == LATEST]

    def rule(self, name: str) -> dict[str, Any] | None:
        """Return the split rule fixed for this name, or None before its first snapshot."""
        document = documents.read(self._objects, _rule_key(name))
        return None if document is None else _rule(document)

    def fix_rule(self, name: str, rule: Mapping[str, Any]) -> dict[str, Any]:
        """Fix the split rule unless one is fixed already; return the one that stands.

        A standing rule that says the same with fewer fields, as an earlier release wrote it, gets the fields that it lacks.
        """

        def change(standing: Document | None) -> dict[str, Any] | None:
            if standing is None:
                return {"rule": rule, "history": []}
            fixed = standing.body["rule"]
            if fixed == rule or any(rule.get(field) != value for field, value in fixed.items()):
                return None
            return {"rule": rule, "history": standing.body["history"]}

        return _rule(self._change(_rule_key(name), change))

    def reset_rule(self, name: str, rule: Mapping[str, Any], *, reason: str, actor: str) -> dict[str, Any]:
        """Replace the split rule, on record: the old one stays in ``history`` with the reason. Twice is once.

        A reason is recorded also where the rule itself stays, as when only a column's type changed.

        Returns:
            The rule that stands.
        """

        def change(standing: Document | None) -> dict[str, Any] | None:
            if standing is None:
                return {"rule": rule, "history": []}
            if standing.body["rule"] == rule and any(past["reason"] == reason for past in standing.body["history"]):
                return None
            at = datetime.now(UTC).isoformat(timespec="seconds")
            past = {"rule": standing.body["rule"], "until": at, "reason": reason, "actor": actor}
            return {"rule": rule, "history": [*standing.body["history"], past]}

        return _rule(self._change(_rule_key(name), change))

    def resets(self, name: str) -> list[str]:
        """Return the reasons of all changes of the split rule, oldest first."""
        document = documents.read(self._objects, _rule_key(name))
        return [] if document is None else [past["reason"] for past in document.body["history"]]

    def latest(self, name: str) -> dict[str, Any] | None:
        """Return the manifest of the snapshot published last; None where there is none, or it is lost, of which the log tells."""
        document = None
        try:
            if (pointer := documents.read(self._objects, _latest_key(name))) is None:
                return None
            document = documents.read(self._objects, _snapshot_key(name, pointer.body["digest"]))
            lost = f"snapshot {pointer.body['digest']} is gone"
        except documents.Damaged as damage:
            lost = str(damage)
        if document is None:
            log.warning("SNAPSHOT LOST of dataset %s: %s; what is pulled now takes nothing over from it", name, lost)
        return None if document is None else documents.plain(document)

    def manifest(self, name: str, digest: str) -> dict[str, Any]:
        """Return a snapshot's manifest.

        Raises:
            BadInput: no such snapshot.
        """
        document = documents.read(self._objects, _snapshot_key(name, digest))
        if document is None:
            known = self.names()
            hint = "publish it again" if name in known else f"known datasets: {', '.join(known) or 'none'}{nearest(name, known)}"
            raise BadInput("NO_SNAPSHOT", f"dataset {name!r} has no snapshot {digest}", hint, file=self._objects.uri)
        return documents.plain(document)

    def publish(self, name: str, folder: Path) -> tuple[dict[str, Any], int]:
        """Publish what the stage ``pull_dataset`` wrote, parts first and the manifest last.

        Args:
            name: of the dataset.
            folder: holds ``manifest.json`` and, for new parts only, ``parts/<sha256>.parquet``.

        Returns:
            The manifest that stands, and the bytes of the parts that were uploaded. A snapshot that is the latest already is
            only looked at.

        Raises:
            BadInput: the manifest is of another dataset, or a part is neither in the folder nor in the store, or is damaged.
        """
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("name") != name:
            raise BadInput(
                "WRONG_DATASET", f"is of dataset {manifest.get('name')!r}, not {name!r}", file=folder / "manifest.json"
            )
        digest = check_sha256(manifest["digest"])
        key, standing, uploaded = _snapshot_key(name, digest), None, 0
        with contextlib.suppress(documents.Damaged):
            standing = documents.read(self._objects, key)
        if standing is None:
            uploaded = self._upload_parts(name, folder / "parts", manifest["parts"])
            standing, _ = documents.restore(self._objects, key, manifest)
        pointer = {"digest": digest}
        try:
            self._change(_latest_key(name), lambda now: None if now is not None and now.body["digest"] == digest else pointer)
        except documents.Damaged:
            documents.restore(self._objects, _latest_key(name), pointer)
        return documents.plain(standing), uploaded

    def fetch(
        self,
        name: str,
        digest: str,
        *,
        destination: Path,
        splits: Collection[str] | None = None,
        cache: Cache | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Path:
        """Lay a snapshot down as a folder: ``manifest.json``, ``<split>/<sha256>.parquet``, ``unlabelled-<split>/…``.

        Args:
            name: of the dataset.
            digest: of the snapshot.
            destination: must not exist, or be an empty folder; it appears whole or not at all.
            splits: only the labelled rows of these, and for ``unlabelled-<split>`` those without a label; None takes everything.
            cache: content-addressed files on this machine.
            on_bytes: told the number of bytes just transferred, from several threads.

        Raises:
            BadInput: no such snapshot, or a part is missing or damaged, or ``destination`` holds something.
        """
        if destination.exists() and any(destination.iterdir()):
            raise BadInput("FOLDER_NOT_EMPTY", "a snapshot is laid down in an empty folder", "choose another", file=destination)
        manifest = self.manifest(name, digest)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{destination.name}-", dir=destination.parent, ignore_cleanup_errors=True
        ) as scratch:
            folder = Path(scratch, "snapshot")
            folder.mkdir()

            def lay_down(part: Mapping[str, Any]) -> None:
                target = folder / _group(part) / f"{check_sha256(part['sha256'])}.parquet"
                target.parent.mkdir(exist_ok=True)
                self._fetch_part(name, part, target, cache, on_bytes)

            wanted = [part for part in manifest["parts"] if splits is None or _group(part) in splits]
            _all_at_once(lay_down, wanted)
            (folder / "manifest.json").write_text(canonical_json(manifest), encoding="utf-8")
            folder.rename(destination)
        return destination

    def _fetch_part(
        self, name: str, part: Mapping[str, Any], target: Path, cache: Cache | None, on_bytes: OnBytes | None
    ) -> None:
        sha256, key = part["sha256"], _part_key(name, part["sha256"])

        def receive(path: Path) -> None:
            for attempt in range(DOWNLOADS):
                if attempt and on_bytes is not None:
                    on_bytes(-path.stat().st_size)
                self._objects.download(key, path, on_bytes)
                found = sha256_of(path)
                if found == sha256:
                    return
            raise self._broken(key, f"is damaged: its sha256 is {found}")

        try:
            if cache is None:
                receive(target)
            else:
                cache.fetch(sha256, receive, link=target)
        except ObjectMissing as error:
            raise self._broken(key, "is missing") from error

    def _broken(self, key: str, what: str) -> BadInput:
        fix = "restore it from a backup, or pull the data under a new dataset name"
        return BadInput("BROKEN_SNAPSHOT", f"a part of the snapshot {what}", fix, file=self._objects.full_uri(key))

    def _upload_parts(self, name: str, folder: Path, parts: list[dict[str, Any]]) -> int:
        """Upload the parts that the store lacks; return their bytes."""
        stored = {info.key: info.size for info in self._objects.list(f"{_folder(name)}/parts/")}

        def upload(part: Mapping[str, Any]) -> int:
            key = _part_key(name, part["sha256"])
            if stored.get(key) == part["bytes"]:
                return 0
            path = folder / f"{part['sha256']}.parquet"
            if not path.exists():
                raise self._broken(key, "is missing, and this pull kept it by reference")
            if sha256_of(path) != part["sha256"]:
                raise BadInput("HASH_MISMATCH", "the part is not what its manifest says", "pull the data again", file=path)
            self._objects.upload(key, path)
            return path.stat().st_size

        return sum(_all_at_once(upload, parts))

    def _change(self, key: str, change: Callable[[Document | None], dict[str, Any] | None]) -> Document:
        """Apply ``change`` to what stands until it is in; None means that what stands is right."""
        while True:
            standing = documents.read(self._objects, key)
            body = change(standing)
            if body is None and standing is not None:
                return standing
            assert body is not None, "a change of nothing is a body"
            if standing is None:
                document, mine = documents.create(self._objects, key, body)
            else:
                document, mine = documents.replace(self._objects, key, body, standing.etag)
            if mine:
                return document


def _all_at_once(work: Callable[[Mapping[str, Any]], Result], parts: list[dict[str, Any]]) -> list[Result]:
    """Do the work for several parts at a time; the first error ends it."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, parts))


def _group(part: Mapping[str, Any]) -> str:
    """Return the folder of a part's rows."""
    split = check_name(part["split"], "split")
    return split if part["labelled"] else f"unlabelled-{split}"


def _rule(document: Document) -> dict[str, Any]:
    return dict(document.body["rule"])


def _rule_key(name: str) -> str:
    return f"{_folder(name)}/rule.json"


def _latest_key(name: str) -> str:
    return f"{_folder(name)}/{LATEST}"


def _snapshot_key(name: str, digest: str) -> str:
    return f"{_folder(name)}/snapshots/{check_sha256(digest)}.json"


def _part_key(name: str, sha256: str) -> str:
    return f"{_folder(name)}/parts/{check_sha256(sha256)}.parquet"


def _folder(name: str) -> str:
    return f"{ROOT}/{check_name(name, 'dataset name')}"
