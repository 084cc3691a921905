"""How long the processor's threads look for work before they sleep: long on an idle machine, hardly at all on a busy one.

The threads of a training step wait for each other some 400 times, mostly for less than a tenth of a millisecond. To wake one that
sleeps takes as long; one that stays awake takes a processor from other work, and from the thread that it waits for. Milliseconds
to a step of 16 headlines, two cores, by how often they look (``GOMP_SPINCOUNT``):

| | 0 | 1,000 | 6,000 | 30,000 |
|---|--:|--:|--:|--:|
| idle machine | 114 | 82 | 71 | 75 |
| beside one busy process | 109 | 142 | 283 | 657 |

``giving_way`` has 71 and 113. It relies on what OpenMP's library does with more threads than processors: they look 100 times at
most (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html). A second team of threads, asleep, makes it so, and its end
undoes it. No result depends on any of this.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

SECONDS = 0.1
"""Between two looks at the machine."""

BUSY, QUIET = 0.1, 0.03
"""Share of the time without a processor at which a thread begins to give way, and below which that ends."""

WATCHER = "giving way"
"""Name of the thread that looks at the machine."""

DIVIDED = 2**17
"""Elements of a tensor that torch divides among its threads, whatever it does with them."""


@contextlib.contextmanager
def giving_way() -> Iterator[None]:
    """Let the threads that compute for this one sleep early for as long as other work keeps it from its processor."""
    if torch.get_num_threads() == 1:
        yield
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(threading.get_native_id(), done), name=WATCHER, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(thread: int, done: threading.Event) -> None:
    shares = _shares_kept_waiting(thread)
    next(shares)
    while not done.wait(SECONDS):
        if next(shares) > BUSY:
            with _sleeping_team():
                while not done.wait(SECONDS) and next(shares) >= QUIET:
                    pass


def _shares_kept_waiting(thread: int) -> Iterator[float]:
    """Yield for which share of the time since it was last asked a thread was ready and had no processor; the first is 0.

    It is 1 where the kernel does not count this.
    """
    before, since = None, time.monotonic()
    while True:
        waited, now = _kept_waiting(thread), time.monotonic()
        if waited is None:
            yield 1.0
        else:
            yield 0.0 if before is None else (waited - before) / (now - since)
        before, since = waited, now


def _kept_waiting(thread: int) -> float | None:
    """Return for how many seconds since its start a thread was ready and had no processor; None if the kernel does not say."""
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return None


@contextlib.contextmanager
def _sleeping_team() -> Iterator[None]:
    """Keep a team of OpenMP's threads that has nothing to do; it belongs to a thread of ours and ends with it."""
    dismissed = threading.Event()

    def lead() -> None:
        torch.zeros(DIVIDED).add_(1)
        dismissed.wait()

    leader = threading.Thread(target=lead, daemon=True)
    leader.start()
    try:
        yield
    finally:
        dismissed.set()
        leader.join()
