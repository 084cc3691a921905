"""One attempt at a job: it holds the job's lease, goes on from what was kept, and uploads what is finished in the background."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from transfer_learning.errors import Stopped, StoreError, StoreUnreachable, TransferLearningError
from transfer_learning.jobs import StopFlag
from transfer_learning.store.checkpoints import CheckpointStore, is_complete
from transfer_learning.store.lease import TERM_SECONDS, Lease
from transfer_learning.store.object_store import ObjectStore

DRAIN_SECONDS = 1.5
"""What an upload may still take after a stop; with the child's grace time it ends before Airflow kills, 5 s after the stop."""

log = logging.getLogger(__name__)


class Attempt:
    """The right to run a job, and its checkpoints in the store.

    Use it as a context: entering waits for the lease. Whether another attempt has published meanwhile is for the caller to look
    up inside.

    Args:
        objects: the store.
        fingerprint: the job's.
        owner: who runs it, for people to read.
        stop: ends the wait.
        term: of the lease, s.
    """

    def __init__(
        self, objects: ObjectStore, fingerprint: str, *, owner: str, stop: StopFlag | None = None, term: float = TERM_SECONDS
    ) -> None:
        self.name = uuid.uuid4().hex[:12]
        self._stop = stop or StopFlag()
        self._lease = Lease(objects, fingerprint, owner=owner, term=term)
        self._checkpoints = CheckpointStore(objects, fingerprint)
        self._uploads: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._uploader: threading.Thread | None = None
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        if not self._lease.acquire(give_up=lambda: self._stop.is_set):
            raise Stopped("STOPPED while another attempt of this job was running")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._drain(DRAIN_SECONDS if self._stop.is_set else None)
        self._lease.release()

    def newest_checkpoint(self, work: Path) -> Path | None:
        """Bring the newest whole checkpoint of any earlier attempt onto this machine; None when there is none."""
        found = self._checkpoints.fetch_newest(work / "resume")
        if found is not None:
            log.info("Going on from %s of an earlier attempt", found.name)
        return found

    def watcher(self, work: Path) -> Callable[[], None]:
        """Return what ``run_job`` calls while the child runs: it hands on new checkpoints and checks the lease.

        Args:
            work: the job's folder, whose ``checkpoints`` the child writes to.
        """
        self._uploader = threading.Thread(target=self._upload_all, args=(work,), name="checkpoints", daemon=True)
        self._uploader.start()

        def watch() -> None:
            self.check_lease()
            self._notice(work)

        return watch

    def check_lease(self) -> None:
        """Check that the job is still this attempt's.

        Raises:
            StoreUnreachable: it may be another's by now.
        """
        if self._lease.lost:
            raise StoreUnreachable("LEASE_LOST the store did not answer in time, or another attempt took over: stopped here")

    def finish(self) -> None:
        """Delete the job's checkpoints: its result is published. What cannot be deleted now is left to garbage collection."""
        self._drain(None)
        try:
            self._checkpoints.delete()
        except StoreError as error:
            log.warning("The checkpoints of this job could not be deleted (%s); garbage collection will", error)

    def _notice(self, work: Path) -> None:
        """Hand new checkpoints on. Hard links keep their files while the child prunes its own folders."""
        for folder in sorted((work / "checkpoints").glob("step-*")):
            if folder.name in self._seen:
                continue
            linked = work / "uploads" / folder.name
            try:
                shutil.copytree(folder, linked, copy_function=os.link)
                whole = is_complete(linked)
            except (FileNotFoundError, shutil.Error):  # the child is pruning it
                whole = False
            if whole:
                self._seen.add(folder.name)
                self._uploads.put(linked)
            else:
                shutil.rmtree(linked, ignore_errors=True)

    def _upload_all(self, work: Path) -> None:
        """Upload what is handed on; of several that wait, only the newest."""
        while (folder := self._uploads.get()) is not None:
            with contextlib.suppress(queue.Empty):
                while (newer := self._uploads.get_nowait()) is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                    folder = newer
                self._uploads.put(None)
            self._upload(folder, work)

    def _upload(self, folder: Path, work: Path) -> None:
        started = time.monotonic()
        try:
            size = self._checkpoints.upload(folder, self.name)
            kept = {path.name for path in (work / "checkpoints").glob("step-*")} | {folder.name}
            self._checkpoints.keep(self.name, kept)
            log.info("Checkpoint %s stored: %.1f MB in %.1f s", folder.name, size / 1e6, time.monotonic() - started)
        except StoreError as error:
            log.warning("Checkpoint %s could not be stored (%s); the one before still counts", folder.name, error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _drain(self, seconds: float | None) -> None:
        """Let the uploads end, for so long at most."""
        if self._uploader is not None and self._uploader.is_alive():
            self._uploads.put(None)
            self._uploader.join(seconds)


class PartUploads:
    """Uploads the finished parts of a running extraction in the background, so that a killed one loses only what it was at.

    Use it as a context: leaving waits for the uploads, after a stop for a short time. What could not be uploaded is named in the
    log and left to the end of the job, when every part is made sure of.

    Args:
        folder: where the child's parts appear.
        put: uploads one.
        stop: cuts the wait short.
    """

    def __init__(self, folder: Path, put: Callable[[Path], object], stop: StopFlag) -> None:
        self._folder, self._put, self._stop = folder, put, stop
        self._parts: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._uploader = threading.Thread(target=self._upload_all, name="parts", daemon=True)
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        self._uploader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._parts.put(None)
        self._uploader.join(DRAIN_SECONDS if self._stop.is_set else None)

    def notice(self) -> None:
        """Hand on the parts that have appeared since."""
        for path in sorted(self._folder.glob("part-*.parquet")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                self._parts.put(path)

    def _upload_all(self) -> None:
        while (path := self._parts.get()) is not None:
            try:
                self._put(path)
            except (TransferLearningError, OSError) as error:
                log.warning("%s could not be stored yet (%s); the extraction goes on", path.name, error)
