"""Object stores that die or lose an answer at a chosen call."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from transfer_learning.errors import OutcomeUnknown, PreconditionFailed, StoreUnreachable
from transfer_learning.store.object_store import ObjectInfo, ObjectStore, OnBytes, Stored

T = TypeVar("T")


class Killed(BaseException):
    """The process is gone; nothing may catch this."""


class FaultyObjectStore(ObjectStore):
    """Passes every call on and lets subclasses come before and after it; ``calls`` counts them."""

    def __init__(self, inner: ObjectStore) -> None:
        self.uri = inner.uri
        self.calls: list[str] = []
        self._inner = inner
        self._lock = threading.Lock()

    def around(self, number: int, name: str, call: Callable[[], T], *, writes: bool, conditional: bool) -> T:
        """Make the call; the first has the number 1."""
        return call()

    def _count(self, name: str, call: Callable[[], T], *, writes: bool = False, conditional: bool = False) -> T:
        with self._lock:
            self.calls.append(name)
            number = len(self.calls)
        return self.around(number, name, call, writes=writes, conditional=conditional)

    def get(self, key: str) -> Stored:
        return self._count(f"get {key}", lambda: self._inner.get(key))

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        conditional = if_absent or if_match is not None
        put = lambda: self._inner.put(key, data, if_absent=if_absent, if_match=if_match)  # noqa: E731
        return self._count(f"put {key}", put, writes=True, conditional=conditional)

    def upload(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        self._count(f"upload {key}", lambda: self._inner.upload(key, path, on_bytes), writes=True)

    def download(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        self._count(f"download {key}", lambda: self._inner.download(key, path, on_bytes))

    def copy(self, source: str, target: str) -> None:
        self._count(f"copy {source}", lambda: self._inner.copy(source, target), writes=True)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._count(f"list {prefix}", lambda: self._inner.list(prefix))

    def delete(self, key: str) -> None:
        self._count(f"delete {key}", lambda: self._inner.delete(key), writes=True)


class DyingObjectStore(FaultyObjectStore):
    """The process dies before or after its n-th call, and makes no further one."""

    def __init__(self, inner: ObjectStore, at: int, *, after: bool) -> None:
        super().__init__(inner)
        self._at, self._after = at, after

    def around(self, number: int, name: str, call: Callable[[], T], *, writes: bool, conditional: bool) -> T:
        if number > self._at or (number == self._at and not self._after):
            raise Killed(name)
        result = call()
        if number == self._at:
            raise Killed(name)
        return result


class ForgetfulObjectStore(FaultyObjectStore):
    """The answer to some calls is lost although they worked: the n-th, the first of a name, or a random share of the writes.

    A lost conditional write comes back as a lost race (``echo``), as boto3 reports its own repeated success, or as an unknown
    outcome; None draws one of the two each time.
    """

    def __init__(
        self, inner: ObjectStore, *, at: int | str | None = None, share: float = 0.0, seed: int = 0, echo: bool | None = None
    ) -> None:
        super().__init__(inner)
        self._at, self._share, self._random, self._echo = at, share, random.Random(seed), echo

    def around(self, number: int, name: str, call: Callable[[], T], *, writes: bool, conditional: bool) -> T:
        result = call()
        with self._lock:
            lost = (
                self._at == number
                or (self._at == name and self.calls.count(name) == 1)
                or (writes and self._random.random() < self._share)
            )
            echo = self._random.random() < 0.5 if self._echo is None else self._echo
        if lost and conditional and echo:
            raise PreconditionFailed(f"echo of one's own write: {name}")
        if lost and writes:
            raise OutcomeUnknown(f"lost the answer to {name}")
        if lost:
            raise StoreUnreachable(f"lost the answer to {name}")
        return result


class ScriptedObjectStore(FaultyObjectStore):
    """Meets one fault of a script at each write, and one at each read; None, and the end of a script, mean that it works.

    ``lost``: it is written, the answer is not heard. ``echo``: it is written, and the repetition of the write reports a lost
    race. ``unsent``: nobody knows, but it is not written. ``conflict``: it is not written because others are writing. ``late``:
    nobody knows, and it is written only after the caller has looked. ``down``: no answer, nothing happened.
    """

    def __init__(self, inner: ObjectStore, *, writes: Iterable[str | None] = (), reads: Iterable[str | None] = ()) -> None:
        super().__init__(inner)
        self._scripts = {True: iter(writes), False: iter(reads)}
        self._late: list[Callable[[], object]] = []

    def around(self, number: int, name: str, call: Callable[[], T], *, writes: bool, conditional: bool) -> T:
        with self._lock:
            fault = next(self._scripts[writes], None)
            arriving, self._late = (self._late, []) if writes else ([], self._late)
        for earlier in arriving:
            with contextlib.suppress(PreconditionFailed):
                earlier()
        if fault == "late":
            self._late.append(call)
        elif fault in (None, "lost", "echo"):
            result = call()
            if fault is None:
                return result
        if fault in ("echo", "conflict"):
            raise PreconditionFailed(f"{fault}: {name}")
        raise (OutcomeUnknown if fault != "down" else StoreUnreachable)(f"{fault}: {name}")
