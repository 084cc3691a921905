"""A lease on a job: two attempts of one fingerprint never train at the same time.

``checkpoints/<fingerprint>/lease.json`` holds owner, term and nonce and changes by compare-and-swap only. The holder renews it on
time and stops its child when two thirds of the term pass without a renewal; others take over only after seeing the same nonce
unchanged for the whole term, theirs or the holder's, whichever is longer, on their own clock. No clock is ever compared with
another machine's.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from transfer_learning.errors import ObjectMissing, StoreError
from transfer_learning.store import documents, layout
from transfer_learning.store.object_store import ObjectStore

TERM_SECONDS = 60.0

POLL_SECONDS = 1.0
"""At most this between two looks at the holder: whoever waits must notice within Airflow's 5 s that it was asked to stop."""

log = logging.getLogger(__name__)


class Lease:
    """The right to run one job, for as long as it is renewed.

    Args:
        objects: the store.
        fingerprint: the job's.
        owner: who asks, for people to read.
        term: how long the right outlives its last renewal, s.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        objects: ObjectStore,
        fingerprint: str,
        *,
        owner: str,
        term: float = TERM_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects, self._key = objects, f"{layout.checkpoints_prefix(fingerprint)}lease.json"
        self._owner, self._term, self._clock = owner, term, clock
        self._document: documents.Document | None = None
        self._renewed = 0.0
        self._end = threading.Event()
        self._keeper: threading.Thread | None = None

    def try_acquire(self) -> str | None:
        """Take the lease if nobody holds it; return None, or else the nonce of the holder that was seen."""
        asked = self._clock()
        document, mine = documents.create(self._objects, self._key, self._body())
        if not mine and document.body.get("released"):
            try:
                document, mine = documents.replace(self._objects, self._key, self._body(), document.etag)
            except ObjectMissing:  # garbage collection was faster
                return self.try_acquire()
        if not mine:
            return str(document.body["nonce"])
        self._document, self._renewed = document, asked
        return None

    def take(self, seen: documents.Document | None) -> bool:
        """Take the lease from a holder that is known to be gone, or where none was seen; False when somebody else was faster."""
        asked = self._clock()
        if seen is None:
            document, mine = documents.create(self._objects, self._key, self._body())
        else:
            document, mine = documents.replace(self._objects, self._key, self._body(), seen.etag)
        if mine:
            self._document, self._renewed = document, asked
        return mine

    def acquire(self, *, give_up: Callable[[], bool] = lambda: False, poll: float | None = None) -> bool:
        """Wait for the lease and keep it renewed from a thread; return False when ``give_up`` says so first.

        A holder that does not renew within the whole term, seen from here, has lost it.
        """
        seen, since = self.try_acquire(), self._clock()
        if seen is not None:
            log.info("Another attempt holds this job; waiting for it to finish or to fall silent for %.0f s", self._term)
        while seen is not None:
            if give_up():
                return False
            time.sleep(poll if poll is not None else min(self._term / 20, POLL_SECONDS))
            seen, since = self._watch(seen, since)
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._keeper.start()
        return True

    def _watch(self, seen: str, since: float) -> tuple[str | None, float]:
        """Look at the holder once more; take over after a whole term of silence."""
        current = documents.read(self._objects, self._key)
        if current is None or current.body.get("released"):
            return self.try_acquire(), self._clock()
        if current.body["nonce"] != seen:
            return str(current.body["nonce"]), self._clock()
        asked = self._clock()
        if asked - since < max(self._term, float(current.body.get("term") or 0)):
            return seen, since
        log.warning("The attempt that held this job (%s) fell silent: taking over", current.body.get("owner"))
        try:
            document, mine = documents.replace(self._objects, self._key, self._body(), current.etag)
        except ObjectMissing:  # garbage collection was faster
            return self.try_acquire(), self._clock()
        if not mine:
            return str(document.body["nonce"]), self._clock()
        self._document, self._renewed = document, asked
        return None, asked

    @property
    def lost(self) -> bool:
        """Whether the child must go: two thirds of the term without a renewal, or somebody else took over."""
        return self._document is None or self._clock() - self._renewed > self._term * 2 / 3

    def renew(self) -> None:
        """Prove once more to be alive."""
        if self._document is None:
            return
        asked = self._clock()
        document, mine = documents.replace(self._objects, self._key, self._body(), self._document.etag)
        self._document = document if mine else None
        self._renewed = asked if mine else self._renewed

    def release(self) -> None:
        """Give the lease back, so that the next attempt need not wait; a failure to do so costs it one term."""
        self._end.set()
        if self._keeper is not None:
            self._keeper.join(timeout=self._term)
        if self._document is None:
            return
        try:
            documents.replace(self._objects, self._key, {**self._body(), "released": True}, self._document.etag)
        except StoreError as error:
            log.warning("The lease could not be given back (%s); the next attempt waits %.0f s", error, self._term)
        self._document = None

    def _keep(self) -> None:
        while not self._end.wait(self._term / 6):
            try:
                self.renew()
            except StoreError as error:
                log.warning("The lease could not be renewed: %s", error)
            if self._document is None:
                return

    def _body(self) -> dict[str, Any]:
        return {"owner": self._owner, "term": self._term, "renewal": uuid.uuid4().hex}
