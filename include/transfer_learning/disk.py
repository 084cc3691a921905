"""A full disk, told in one line. Torch-free, so that both sides of a job say the same."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from transfer_learning.errors import BadInput

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def room_for(path: Path, needed: int | Callable[[], int] | None = None) -> Iterator[None]:
    """Turn a full disk into one line.

    Args:
        path: the file being written.
        needed: its size when complete, bytes, or how to find out; None where nobody knows.

    Raises:
        BadInput: the disk, the quota or the file size limit is reached.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(path, needed() if callable(needed) else needed) from error


def is_disk_full(error: Exception) -> bool:
    """Return whether a write failed for want of room; safetensors tells the number in its text alone."""
    told = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return (int(told[1]) if told else getattr(error, "errno", None)) in NO_SPACE


def disk_full(path: Path, needed: int | None = None) -> BadInput:
    """Return the error for what does not fit.

    Args:
        path: what was being written.
        needed: its size when complete, bytes; None where nobody knows.
    """
    what = "does not fit on the disk" if needed is None else f"needs {needed:,} bytes, and the disk is full"
    return BadInput("DISK_FULL", what, "make room or choose another disk", file=path)
