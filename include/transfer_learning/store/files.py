"""Files that are complete or absent, and names that are hashes."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from transfer_learning.disk import room_for
from transfer_learning.errors import BadInput

SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
DOWNLOADS = 2
"""Bytes may change on their way; those that are wrong twice are wrong in the store."""


def check_sha256(sha256: str) -> str:
    """Return ``sha256`` if it is one, in lower-case hex, and so safe as one path segment.

    Raises:
        BadInput: it is anything else.
    """
    if not SHA256.fullmatch(str(sha256)):
        raise BadInput("BAD_NAME", f"{str(sha256)[:80]!r} is not a SHA-256")
    return sha256


@contextlib.contextmanager
def whole_file(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    Args:
        path: replaced if it exists.
        needed: its size when complete, bytes; None where nobody knows.

    Raises:
        BadInput: the disk is full.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with room_for(path, needed):
            yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
