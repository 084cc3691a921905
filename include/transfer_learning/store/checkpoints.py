"""Checkpoints of a running job: uploaded by the attempt that wrote them, read by any later one, gone once it is published.

``checkpoints/<fingerprint>/<attempt>/step-00001234/`` holds the files of one checkpoint; its ``_COMPLETE.json`` goes up last and
comes down first, and names every file with its size and hash.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transfer_learning.errors import ObjectMissing
from transfer_learning.hashes import sha256_of
from transfer_learning.store import layout
from transfer_learning.store.object_store import ObjectStore

COMPLETE = "_COMPLETE.json"

log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one job.

    Args:
        objects: the store.
        fingerprint: the job's.
    """

    def __init__(self, objects: ObjectStore, fingerprint: str) -> None:
        self._objects, self._prefix = objects, layout.checkpoints_prefix(fingerprint)

    def upload(self, folder: Path, attempt: str) -> int:
        """Upload one complete checkpoint, its marker last; return the bytes.

        Args:
            folder: ``step-00001234`` with its marker.
            attempt: a name that no other attempt uses.

        Raises:
            StoreError: it did not arrive; the checkpoint before still counts.
        """
        prefix = f"{self._prefix}{layout.check_id(attempt)}/{folder.name}"
        names = [*sorted(_marker(folder)), COMPLETE]
        for name in names:
            self._objects.upload(f"{prefix}/{name}", folder / name)
        return sum((folder / name).stat().st_size for name in names)

    def keep(self, attempt: str, folders: set[str]) -> None:
        """Delete what this attempt uploaded before, but these folders; markers first, so that no reader meets half of one."""
        prefix = f"{self._prefix}{layout.check_id(attempt)}/"
        keys = [info.key for info in self._objects.list(prefix)]
        for key in sorted(keys, key=lambda key: not key.endswith(COMPLETE)):
            if key.removeprefix(prefix).split("/")[0] not in folders:
                self._objects.delete(key)

    def fetch_newest(self, destination: Path, on_skip: Callable[[str], None] = log.warning) -> Path | None:
        """Download the newest whole checkpoint of any attempt below ``destination`` and return its folder.

        A damaged one is skipped, loudly, for the one before; None when there is no whole one.
        """
        for key in self._complete():
            folder = destination / key.split("/")[-2]
            try:
                self._fetch(key.removesuffix(f"/{COMPLETE}"), folder)
            except (ObjectMissing, ValueError) as damage:
                shutil.rmtree(folder, ignore_errors=True)
                on_skip(f"CHECKPOINT SKIPPED {self._objects.full_uri(key)}: {damage}; going on with the one before")
            else:
                return folder
        return None

    def delete(self) -> None:
        """Delete every checkpoint of the job; its result is published. The lease stays until garbage collection."""
        keys = [info.key for info in self._objects.list(self._prefix) if not info.key.endswith("/lease.json")]
        for key in sorted(keys, key=lambda key: not key.endswith(COMPLETE)):
            self._objects.delete(key)

    def _complete(self) -> Iterator[str]:
        """Yield the keys of the markers, the newest step first."""
        markers = [info.key for info in self._objects.list(self._prefix) if info.key.endswith(f"/{COMPLETE}")]
        yield from sorted(markers, key=lambda key: key.split("/")[-2], reverse=True)

    def _fetch(self, prefix: str, folder: Path) -> None:
        """Download one checkpoint and check every file.

        Raises:
            ObjectMissing, ValueError: it is not whole.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._objects.download(f"{prefix}/{COMPLETE}", folder / COMPLETE)
        for name, entry in _marker(folder).items():
            self._objects.download(f"{prefix}/{name}", folder / name)
            if (folder / name).stat().st_size != entry["bytes"] or sha256_of(folder / name) != entry["sha256"]:
                raise ValueError(f"{name} is not the file that was written")


def is_complete(folder: Path) -> bool:
    """Return whether a folder is a checkpoint with its marker."""
    return folder.name.startswith("step-") and (folder / COMPLETE).is_file()


def _marker(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the files that the marker names.

    Raises:
        ValueError: it is not a marker, or names a path.
    """
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / COMPLETE).read_bytes())["files"]
        plain = all("/" not in name and name not in ("", ".", "..") and {"bytes", "sha256"} <= set(files[name]) for name in files)
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{COMPLETE} cannot be read: {error}") from None
    if not plain:
        raise ValueError(f"{COMPLETE} names files that do not belong to a checkpoint")
    return files
