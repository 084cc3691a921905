"""A folder and its place in the store: hash, refuse what could run code, upload, verify, fetch."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from transfer_learning.errors import BadInput, ObjectMissing, OutcomeUnknown, StoreError
from transfer_learning.hashes import sha256_of
from transfer_learning.store.cache import Cache
from transfer_learning.store.files import DOWNLOADS
from transfer_learning.store.object_store import ObjectStore, OnBytes, check_key
from transfer_learning.store.pickles import refuse_pickle, refuse_pickle_name

Files = Sequence[Mapping[str, Any]]
"""One ``{path, bytes, sha256}`` for each file of a folder; paths are relative, with slashes."""

Item = TypeVar("Item")

WORKERS = 8
LOG_SECONDS = 5.0
UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def list_files(folder: Path) -> list[dict[str, Any]]:
    """Hash every file below ``folder``.

    Returns:
        ``{path, bytes, sha256}`` in order of path.

    Raises:
        BadInput: an empty folder, a link, a special file, a name that does not fit a key, or no such folder.
    """
    if not folder.is_dir():
        raise BadInput("NO_FOLDER", "there is no such folder", "check the path", file=folder)
    files = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BadInput("BAD_FILE", f"{relative} is a link or a special file", "store a plain copy of it", file=folder)
        if path.is_file():
            files.append(describe_file(path, relative))
    if not files:
        raise BadInput("EMPTY_FOLDER", "holds no files", "check what wrote it", file=folder)
    return files


def describe_file(path: Path, name: str) -> dict[str, Any]:
    """Return ``{path, bytes, sha256}`` of a file that is to be stored under ``name``."""
    return {"path": check_key(name), "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def list_model_files(folder: Path) -> list[dict[str, Any]]:
    """Hash a model's files as ``list_files`` does, and refuse anything that is a pickle, whatever its name.

    Raises:
        BadInput: also a pickle, or a ``.safetensors`` file that is none.
    """
    files = list_files(folder)
    for entry in files:
        refuse_pickle(folder / entry["path"])
    return files


def upload_folder(
    objects: ObjectStore,
    folder: Path,
    files: Files,
    prefix: str,
    *,
    stored: Mapping[str, str] | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> int:
    """Bring a folder below ``prefix``, several files at once, and verify every byte by reading it back.

    Args:
        objects: the store.
        folder: on this machine.
        files: of the folder, as ``list_files`` returns them.
        prefix: without a slash at the end; nobody else writes to it.
        stored: key by sha256 of files that lie in the store already; they are copied there and not uploaded.
        log: told about progress.

    Returns:
        Bytes uploaded.

    Raises:
        StoreError: a file did not arrive as it was sent; a retry may help.
    """
    progress = _Progress(sum(entry["bytes"] for entry in files), log)
    known = stored or {}

    def place(entry: Mapping[str, Any]) -> int:
        key, source = f"{prefix}/{entry['path']}", known.get(entry["sha256"])
        if source is not None and _copied(objects, source, key, entry, scratch):
            progress.add(entry["bytes"])
            return 0
        return upload_file(objects, folder / entry["path"], key, entry, scratch, progress.add)

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".verify-") as temporary:
        scratch = Path(temporary)
        uploaded = sum(_each(place, files))
    log(f"Stored {len(files)} files, {size_text(progress.total)}: {size_text(uploaded)} uploaded, the rest copied in the store")
    return uploaded


def upload_file(
    objects: ObjectStore, path: Path, key: str, entry: Mapping[str, Any], scratch: Path, on_bytes: OnBytes | None = None
) -> int:
    """Upload one file and verify it by reading it back into the folder ``scratch``; return its size.

    Raises:
        StoreError: it did not arrive as it was sent; a retry may help.
    """
    with contextlib.suppress(OutcomeUnknown):  # settled by reading back
        objects.upload(key, path, on_bytes)
    if not _arrived(objects, key, entry, scratch):
        raise StoreError(f"{objects.full_uri(key)} did not arrive as it was sent — try again")
    return int(entry["bytes"])


def fetch_folder(
    objects: ObjectStore,
    prefix: str,
    files: Files,
    destination: Path,
    *,
    cache: Cache | None = None,
    on_bytes: OnBytes | None = None,
) -> Path:
    """Download a folder beside ``destination``, verify every file, and rename it into place: whole or not at all.

    A destination that already holds exactly these files is left as it is.

    Args:
        objects: the store.
        prefix: without a slash at the end.
        files: what the manifest says lies there.
        destination: must not exist, or be an empty folder.
        cache: content-addressed files on this machine.
        on_bytes: told the number of bytes just transferred, from several threads.

    Raises:
        BadInput: a file is not what the manifest says, could be a pickle, or leaves the folder; or the destination is taken.
        StoreError: the store failed, or a file is missing there.
    """
    for entry in files:
        check_key(entry["path"])
        refuse_pickle_name(entry["path"])
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        if destination.is_dir() and _is_same(destination, files):
            return destination
        raise BadInput("FOLDER_EXISTS", "exists and holds something else", "name another folder, or empty it", file=destination)

    def obtain(entry: Mapping[str, Any]) -> None:
        target = partial / entry["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch_file(objects, f"{prefix}/{entry['path']}", entry, target, cache=cache, on_bytes=on_bytes)
        refuse_pickle(target)

    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}-"))
    try:
        _each(obtain, files)
        partial.chmod(0o755)  # mkdtemp keeps it private
        partial.replace(destination)
    except OSError:
        if not _is_same(destination, files):  # another process may have been faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return destination


def fetch_file(
    objects: ObjectStore,
    key: str,
    entry: Mapping[str, Any],
    target: Path,
    *,
    cache: Cache | None = None,
    on_bytes: OnBytes | None = None,
) -> None:
    """Download one file and verify it; the other arguments are those of ``fetch_folder``.

    Raises:
        BadInput: it is not what the manifest says.
        StoreError: the store failed, or the file is missing there.
    """

    def download(path: Path) -> None:
        for attempt in range(DOWNLOADS):
            if attempt and on_bytes is not None:
                on_bytes(-path.stat().st_size)
            objects.download(key, path, on_bytes)
            if _is_entry(path, entry):
                return
        raise BadInput(
            "HASH_MISMATCH",
            f"{entry['path']} is not what was published: its bytes have changed",
            "publish the model again, or take another version",
            file=objects.full_uri(key),
        )

    if cache is not None:
        cache.fetch(entry["sha256"], download, link=target)
    else:
        download(target)


def size_text(count: int) -> str:
    """Return a number of bytes for people, such as ``12.3 MB``."""
    unit, factor = next(((unit, factor) for unit, factor in UNITS if abs(count) >= factor), ("B", 1))
    return f"{count / factor:,.1f} {unit}" if factor > 1 else f"{count} B"


def _copied(objects: ObjectStore, source: str, key: str, entry: Mapping[str, Any], scratch: Path) -> bool:
    """Copy inside the store; False when the source is gone or no longer what it was, and the file must be uploaded."""
    with contextlib.suppress(ObjectMissing, OutcomeUnknown):  # settled by reading back
        objects.copy(source, key)
    return _arrived(objects, key, entry, scratch)


def _arrived(objects: ObjectStore, key: str, entry: Mapping[str, Any], scratch: Path) -> bool:
    """Read an object back and compare size and hash."""
    path = scratch / uuid.uuid4().hex
    try:
        objects.download(key, path)
        return _is_entry(path, entry)
    except ObjectMissing:
        return False
    finally:
        path.unlink(missing_ok=True)


def _is_entry(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.stat().st_size == int(entry["bytes"]) and sha256_of(path) == str(entry["sha256"])


def _is_same(folder: Path, files: Files) -> bool:
    if not folder.is_dir():
        return False
    wanted = sorted((entry["path"], entry["sha256"]) for entry in files)
    found = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return [name for name, _ in found] == [name for name, _ in wanted] and [
        (name, sha256_of(path)) for name, path in found
    ] == wanted


def _each(function: Callable[[Mapping[str, Any]], Item], files: Files) -> list[Item]:
    """Call ``function`` with every file, several at once, the largest first; the first error ends it."""
    ordered = sorted(files, key=lambda entry: -entry["bytes"])
    if WORKERS == 1:
        return [function(entry) for entry in ordered]
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(function, entry) for entry in ordered]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Progress:
    """Adds up bytes from several threads and says so every few seconds."""

    def __init__(self, total: int, log: Callable[[str], None]) -> None:
        self.total = total
        self._log, self._done, self._lock = log, 0, threading.Lock()
        self._last = time.monotonic()

    def add(self, count: int) -> None:
        """Count bytes; negative where they are sent again."""
        with self._lock:
            self._done += count
            if time.monotonic() - self._last < LOG_SECONDS:
                return
            self._last = time.monotonic()
            done = self._done
        self._log(f"Storing: {size_text(done)} of {size_text(self.total)}")
