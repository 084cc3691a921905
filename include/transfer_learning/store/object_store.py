"""The seam under the store: keys, bytes and two preconditions.

``S3ObjectStore`` and ``LocalObjectStore`` are the real ones; ``MemoryObjectStore`` serves tests.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from transfer_learning.errors import BadInput, ObjectMissing, PreconditionFailed

OnBytes = Callable[[int], None]
"""Called with the number of bytes just transferred, from several threads; negative where they must be sent again."""

NEVER_IN_A_KEY = frozenset("\\%#?")
NEVER_A_SEGMENT = frozenset(("", ".", ".."))


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """One object as it was read."""

    data: bytes
    etag: str


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as it was listed."""

    key: str
    size: int
    modified: datetime


class ObjectStore(abc.ABC):
    """Keys relative to a root, with conditional writes.

    Every method raises ``StoreUnreachable`` when there is no usable answer, ``BadInput`` when access is denied or the root does
    not exist, and, for writes whose answer was lost, ``OutcomeUnknown``. A ``PreconditionFailed`` may be the echo of one's own
    write that a client library repeated: ``documents`` settles both by reading back.
    """

    uri: str
    """The root, such as ``s3://bucket/prefix`` or ``file:///folder``, without a slash at the end."""

    @abc.abstractmethod
    def get(self, key: str) -> Stored:
        """Read a small object. Raises ObjectMissing."""

    @abc.abstractmethod
    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a small object and return its etag. Raises PreconditionFailed, also for ``if_match`` on a missing key."""

    @abc.abstractmethod
    def upload(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        """Write a file of any size, in several parts where it is large; replaces what is there."""

    @abc.abstractmethod
    def download(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        """Read an object of any size into a file. Raises ObjectMissing."""

    @abc.abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy inside the store, without moving bytes through this machine. Raises ObjectMissing."""

    @abc.abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with ``prefix``, in order of key."""

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is none."""

    def exists(self, key: str) -> bool:
        """Return whether there is an object with this key."""
        return any(info.key == key for info in self.list(key))

    def full_uri(self, key: str) -> str:
        """Return the URI of a key."""
        return f"{self.uri}/{check_key(key)}"


def check_key(key: str) -> str:
    """Return ``key`` if it stays below the root.

    Raises:
        BadInput: empty segments, dots, backslashes, percent signs or control characters.
    """
    if not key.isprintable() or not NEVER_IN_A_KEY.isdisjoint(key) or not NEVER_A_SEGMENT.isdisjoint(key.split("/")):
        raise BadInput("BAD_NAME", f"key {key[:80]!r} would leave the store's root or be read in two ways")
    return key


class MemoryObjectStore(ObjectStore):
    """A dict behind a lock, for tests."""

    def __init__(self, uri: str = "memory://store") -> None:
        self.uri = uri
        self._objects: dict[str, tuple[bytes, datetime]] = {}
        self._lock = threading.RLock()

    def get(self, key: str) -> Stored:
        check_key(key)
        with self._lock:
            if key not in self._objects:
                raise ObjectMissing(f"no object {self.uri}/{key}")
            data = self._objects[key][0]
            return Stored(data, _etag(data))

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        check_key(key)
        with self._lock:
            current = self._objects.get(key)
            if if_absent and current is not None:
                raise PreconditionFailed(f"{self.uri}/{key} exists")
            if if_match is not None and (current is None or _etag(current[0]) != if_match):
                raise PreconditionFailed(f"{self.uri}/{key} has changed")
            self._objects[key] = (data, datetime.now(UTC))
            return _etag(data)

    def upload(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        data = path.read_bytes()
        self.put(key, data)
        if on_bytes is not None:
            on_bytes(len(data))

    def download(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        data = self.get(key).data
        path.write_bytes(data)
        if on_bytes is not None:
            on_bytes(len(data))

    def copy(self, source: str, target: str) -> None:
        self.put(target, self.get(source).data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            found = sorted((key, entry) for key, entry in self._objects.items() if key.startswith(prefix))
        return iter([ObjectInfo(key, len(data), modified) for key, (data, modified) in found])

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._objects.pop(key, None)


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
