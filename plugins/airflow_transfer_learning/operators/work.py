"""Folders for running jobs, removed at the end, and by the next task where a kill left one behind."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from transfer_learning.errors import BadInput, Crashed, Stopped

LOCK = ".lock"


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """Give an empty folder below ``parent`` for as long as the block runs.

    Its lock dies with this process, so a folder whose lock is free is a leftover of a killed task.

    Raises:
        BadInput: the folder cannot be written.
        Crashed: the block failed, and somebody has deleted the folder under its hands, whatever it failed with.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=parent, prefix="new-"))
    except OSError as error:
        raise BadInput(
            "BAD_CONFIG", f"cannot be written: {error.strerror}", "set [transfer_learning] cache_folder", file=parent
        ) from None
    with (new / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = new.replace(new.with_name(new.name.replace("new-", "job-")))  # only locked folders carry the name job-
        _remove_leftovers(parent, but=folder)
        try:
            yield folder
        except Exception as error:
            if (folder / LOCK).exists() or isinstance(error, Stopped):
                raise
            said = f"WORK_GONE {folder} was deleted while the task worked in it; a retry makes a new one — leave {parent} alone"
            raise Crashed(said) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path, but: Path) -> None:
    for folder in parent.glob("job-*"):
        if folder != but:
            with contextlib.suppress(OSError), (folder / LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
