"""Threads give way to other work, and stop giving way when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from transfer_learning.blocks import waiting

DEADLINE = 30.0


def _until(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + DEADLINE
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


def _threads() -> int:
    """Threads of this process, those of libraries included."""
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.usefixtures("two_threads")
def test_a_second_team_sleeps_for_as_long_as_the_machine_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, busy = 0.0, threading.Event()

    def kept_waiting(_: int) -> float:
        nonlocal kept
        kept += waiting.SECONDS if busy.is_set() else 0.0
        return kept

    monkeypatch.setattr(waiting, "_kept_waiting", kept_waiting)
    torch.zeros(waiting.DIVIDED).add_(1)  # this thread's own team
    before = _threads()
    with waiting.giving_way():
        idle = _threads()
        time.sleep(5 * waiting.SECONDS)
        assert _threads() == idle, "nothing else runs"
        busy.set()
        assert _until(lambda: _threads() == idle + torch.get_num_threads()), "a leader and the rest of its team"
        busy.clear()
        assert _until(lambda: _threads() == idle)
        busy.set()
        assert _until(lambda: _threads() == idle + torch.get_num_threads())
    assert _until(lambda: _threads() == before), "no thread is left behind"


@pytest.mark.usefixtures("two_threads")
def test_threads_give_way_where_the_kernel_does_not_say_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_kept_waiting", lambda _: None)
    torch.zeros(waiting.DIVIDED).add_(1)
    with waiting.giving_way():
        idle = _threads()
        assert _until(lambda: _threads() == idle + torch.get_num_threads())


def test_the_kernel_counts_how_long_a_thread_had_no_processor() -> None:
    thread = threading.get_native_id()
    before = waiting._kept_waiting(thread)
    assert before is not None
    spin = "while True: pass"
    others = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:

        def kept_waiting() -> bool:
            sum(range(100_000))
            now = waiting._kept_waiting(thread)
            assert now is not None
            return now > before + 0.1

        assert _until(kept_waiting)
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_a_thread_that_is_gone_says_nothing() -> None:
    assert waiting._kept_waiting(2**30) is None
