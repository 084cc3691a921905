"""The object store in a local directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from transfer_learning.disk import room_for
from transfer_learning.errors import BadInput, ObjectMissing, PreconditionFailed, StoreUnreachable
from transfer_learning.store.files import sync, whole_file
from transfer_learning.store.object_store import ObjectInfo, ObjectStore, OnBytes, Stored, check_key

OWN = ".transfer-learning"
"""Folder below the root with the lock and unfinished files; no key lies in it."""


class LocalObjectStore(ObjectStore):
    """Keys are files below a folder, made when it is missing; safe for several processes on this machine.

    Every write is a temporary file, synced and then renamed under one lock, so a reader sees the old object or the new one.
    The etag is the SHA-256 of the content.

    Args:
        folder: the root.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self.uri = self._folder.as_uri()
        self._scratch = self._folder / OWN / "unfinished"

    def get(self, key: str) -> Stored:
        with self._explained(key):
            data = self._path(key).read_bytes()
        return Stored(data, hashlib.sha256(data).hexdigest())

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        with self._replacing(key, len(data), if_absent=if_absent, if_match=if_match) as temporary:
            temporary.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def upload(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        size = path.stat().st_size
        with self._replacing(key, size) as temporary:
            shutil.copyfile(path, temporary)
        if on_bytes is not None:
            on_bytes(size)

    def download(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        with self._explained(key):
            reader = self._path(key).open("rb")
        with reader:
            size = os.fstat(reader.fileno()).st_size
            with whole_file(path, size) as temporary, temporary.open("wb") as writer:
                shutil.copyfileobj(reader, writer, 1024 * 1024)
        if on_bytes is not None:
            on_bytes(size)

    def copy(self, source: str, target: str) -> None:
        # Not a hard link: garbage collection goes by a file's age.
        origin = self._path(source)
        with self._explained(source):
            size = origin.stat().st_size
        with self._replacing(target, size) as temporary:
            shutil.copyfile(origin, temporary)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self._folder
        found = []
        for parent, folders, names in os.walk(start):
            if Path(parent) == self._folder and OWN in folders:
                folders.remove(OWN)
            for name in names:
                path = Path(parent, name)
                key = path.relative_to(self._folder).as_posix()
                if key.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        stat = path.stat()
                        found.append(ObjectInfo(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)))
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._explained(key), self._lock():
            path.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def _path(self, key: str) -> Path:
        """Return the file of a key. Raises BadInput, also when a link leads out of the root."""
        path = self._folder / check_key(key)
        if key.partition("/")[0] == OWN or not path.resolve().is_relative_to(self._folder):
            raise BadInput("BAD_NAME", f"key {key[:80]!r} leaves the store's root {self.uri}")
        return path

    @contextlib.contextmanager
    def _replacing(self, key: str, size: int, *, if_absent: bool = False, if_match: str | None = None) -> Iterator[Path]:
        """Yield a temporary file that becomes the object if the conditions hold when it is complete."""
        path = self._path(key)
        temporary = self._scratch / uuid.uuid4().hex
        with self._explained(key):
            _make_folder(self._scratch)
            try:
                with room_for(path, size):
                    yield temporary
                    sync(temporary)
                with self._lock():
                    self._check(path, key, if_absent, if_match)
                    _make_folder(path.parent)
                    temporary.replace(path)
                    sync(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _check(self, path: Path, key: str, if_absent: bool, if_match: str | None) -> None:
        if path.is_dir():
            raise self._overlap(key)
        if if_absent and path.exists():
            raise PreconditionFailed(f"{self.uri}/{key} exists")
        if if_match is not None and (not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != if_match):
            raise PreconditionFailed(f"{self.uri}/{key} has changed")

    def _overlap(self, key: str) -> BadInput:
        return BadInput("BAD_NAME", "is the name of an object and of a folder of objects", file=f"{self.uri}/{key}")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        _make_folder(self._scratch)
        with (self._folder / OWN / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also by a crash
            yield

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn errors of the file system into the store's."""
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ObjectMissing(f"no object {self.uri}/{key}") from error
        except PermissionError as error:
            fix = "correct the folder's owner and permissions"
            raise BadInput("ACCESS_DENIED", f"{error.strerror}: {error.filename}", fix, file=f"{self.uri}/{key}") from error
        except (NotADirectoryError, FileExistsError) as error:
            raise self._overlap(key) from error
        except OSError as error:
            if error.errno == errno.EROFS:
                raise BadInput("ACCESS_DENIED", "the file system is read-only", file=f"{self.uri}/{key}") from error
            raise StoreUnreachable(f"the file system failed at {self.uri}/{key}: {error.strerror or error}") from error


def _make_folder(folder: Path) -> None:
    """Make a folder whose name survives a power failure."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
