"""How long one call to the store may go on repeating itself."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator

from botocore.exceptions import EndpointConnectionError

REFUSED_SECONDS = 10.0
"""A server that refuses connections may be starting again; one that still does is down."""

_bound = threading.local()


class OutOfTime(Exception):
    """Raised before a request that might not end within the time allowed."""


class Patience:
    """Time for one call: requests start in the first half of it, so that the last one still has the second half for itself.

    Bound to a thread it also ends the repetitions inside boto3, which know no deadline: a server that swallows requests would
    otherwise cost the read timeout times the number of attempts.

    Args:
        seconds: for the whole call.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pauses = 0
        self.restart()

    def restart(self) -> None:
        """Begin to count now."""
        self._begun = time.monotonic()

    def bind(self) -> None:
        """Watch the requests of this thread, for as long as it lives."""
        _bound.patience = self

    @contextlib.contextmanager
    def bound(self) -> Iterator[None]:
        """Watch the requests of this thread inside the block."""
        self.bind()
        try:
            yield
        finally:
            _bound.patience = None

    def allows_another(self, error: BaseException | None = None) -> bool:
        """Return whether another request may start, after this error."""
        allowed = self._seconds / 2
        if isinstance(error, EndpointConnectionError):
            allowed = min(allowed, REFUSED_SECONDS)
        return time.monotonic() - self._begun < allowed

    def pause(self) -> None:
        """Sleep for a random while, longer each time."""
        self._pauses += 1
        time.sleep(random.uniform(0, min(4.0, 0.1 * 2**self._pauses)))  # noqa: S311


def refuse_when_late(**_: object) -> None:
    """Let boto3 send no request that this thread has no patience for; a handler of its event ``before-send``.

    Raises:
        OutOfTime: too late.
    """
    patience: Patience | None = getattr(_bound, "patience", None)
    if patience is not None and not patience.allows_another():
        raise OutOfTime("time is up")
