"""Files on this machine by their hash: fetched once, checked at every use, limited in size."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from transfer_learning.disk import room_for
from transfer_learning.errors import BadInput
from transfer_learning.hashes import sha256_of
from transfer_learning.store.files import check_sha256, whole_file

ABANDONED_SECONDS = 24 * 3600.0
"""Unfinished files older than this were left by a process that was killed."""
TRIES = 5
"""Somebody may delete the folder while a file is laid down."""

NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class Cache:
    """A folder of files named by their SHA-256, safe for several processes and threads.

    Beyond the size limit, the files used longest ago go first; a single larger file stays until the next one comes.

    Args:
        folder: made when it is missing.
        max_bytes: size limit; None means none.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def fetch(self, sha256: str, download: Callable[[Path], None], *, link: Path | None = None) -> Path:
        """Return the file with this hash, downloading it where it is missing or damaged. It is read-only.

        Args:
            sha256: of the content, in hex.
            download: writes the content into the path it is given.
            link: place the file here as well, and return this path: a hard link or, on another file system, a copy. Made while
                no other process can evict the file, which may happen to the path in the cache as soon as it is returned.

        Raises:
            BadInput: the download has another hash, or the disk is full.
        """
        path = self.folder / check_sha256(sha256)[:2] / sha256
        for left in reversed(range(TRIES)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._lock(sha256[:2]):
                    if not (path.exists() and sha256_of(path) == sha256):
                        _download(path, sha256, download)
                    os.utime(path)  # when it was last used: many machines keep no access times
                    if link is not None:
                        _link(path, link)
                break
            except (FileNotFoundError, FileExistsError):  # the second is what mkdir says when a folder goes under its hands
                if not left:
                    raise
        with contextlib.suppress(FileNotFoundError):
            self._shrink(keep=path)
        return link or path

    def _shrink(self, keep: Path) -> None:
        """Remove what was used longest ago until the rest fits."""
        if self.max_bytes is None:
            return
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for used, size, path in entries:
            unfinished = path.suffix == ".part"
            if time.time() - used > ABANDONED_SECONDS if unfinished else total > self.max_bytes and path != keep:
                total -= size
                # An entry whose lock is taken is being used, and waiting could mean waiting for a long download.
                with contextlib.suppress(BlockingIOError), self._lock(path.parent.name, wait=False):
                    path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each file was last used (s since the epoch), its bytes and its path."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(FileNotFoundError):  # another process removes some too
                stat = path.stat()
                yield stat.st_mtime, stat.st_size, path

    @contextlib.contextmanager
    def _lock(self, group: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock of all hashes that begin alike: a bounded number of files, and seldom two that wait for each other."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / group).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


def _download(path: Path, sha256: str, download: Callable[[Path], None]) -> None:
    with whole_file(path) as temporary:
        download(temporary)
        found = sha256_of(temporary)
        if found != sha256:
            raise BadInput(
                "HASH_MISMATCH", f"was expected to have sha256 {sha256}, found {found}", "fetch it from another source"
            )
        temporary.chmod(0o444)


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        with room_for(target, path.stat().st_size):
            shutil.copyfile(path, target)
