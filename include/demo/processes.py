"""Child processes that do not outlive the demo, however it ends.

Airflow's processes fork workers and tasks into groups and sessions of their own, so stopping a process group is not enough. Linux
hands the orphans among our descendants back to us (``PR_SET_CHILD_SUBREAPER``), so that what we find below us is all there is.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLITE_SECONDS = 4.0


class Processes:
    """Everything this demo started, recorded in a file for the next demo in case this one is killed.

    Args:
        folder: the demo's private folder; processes have it, or a folder below it, as their working directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "pids.json"
        self._started: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start ``command`` in the demo's folder, in a session of its own; its output goes to ``logs/<name>.log``."""
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C in a terminal goes to us alone, and we stop the rest
                preexec_fn=die_with(os.getpid()),
            )
        self._started[name] = (process, log)
        self.note(process.pid)
        return process

    def note(self, pid: int) -> None:
        """Record a session that this demo started."""
        known = json.loads(self.record.read_text()) if self.record.exists() else []
        self.record.write_text(json.dumps([*known, pid]))

    def check(self) -> None:
        """Fail when one of the processes has ended.

        Raises:
            RuntimeError: with its name, its last line of output and its log.
        """
        for name, (process, log) in self._started.items():
            if process.poll() is not None:
                raise RuntimeError(f"Airflow's {name} ended with {process.returncode}: {last_line(log)} (see {log})")

    def finish(self, name: str) -> None:
        """Wait for a process that should end by itself.

        Raises:
            RuntimeError: it failed.
        """
        process, log = self._started.pop(name)
        if process.wait():
            raise RuntimeError(f"Airflow's {name} ended with {process.returncode}: {last_line(log)} (see {log})")

    def stop(self) -> None:
        """Stop every descendant of this process: a polite signal, a few seconds, then SIGKILL until none is left."""
        _send(psutil.Process().children(recursive=True), signal.SIGTERM, POLITE_SECONDS)
        while alive := [child for child in psutil.Process().children(recursive=True) if _is_alive(child)]:
            _send(alive, signal.SIGKILL, 0.5)
        for process, _ in self._started.values():
            process.wait()
        self.record.unlink(missing_ok=True)


def take(folder: Path) -> int:
    """Make ``folder`` and hold it until this process ends; return the lock's file descriptor.

    Raises:
        SystemExit: another demo runs there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"Another demo runs in {folder}; stop it with Ctrl-C in its terminal first.") from None
    return lock


def stop_leftovers(folder: Path) -> int:
    """Kill what a killed demo left running, and return how many processes that were.

    A process is ours when its session is on record there and it works below ``folder``: a number alone may have been reused.
    """
    record = folder / "pids.json"
    sessions = set(json.loads(record.read_text() or "[]")) if record.exists() else set()
    ours = [process for process in psutil.process_iter() if sessions and _is_of(process, sessions, folder)]
    _send(ours, signal.SIGKILL, 5.0)
    record.unlink(missing_ok=True)
    return len(ours)


def end_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal end this process through its ``finally`` blocks, once."""

    def end(number: int, _frame: FrameType | None) -> None:
        for each in SIGNALS:  # a second Ctrl-C must not interrupt the clean-up
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in SIGNALS:
        signal.signal(each, end)


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()] if log.exists() else []
    return next((line for line in reversed(lines) if line), "no output")


def die_with(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes its program: it asks to be killed when the thread that started it ends."""

    def ask() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _is_of(process: psutil.Process, sessions: set[int], folder: Path) -> bool:
    try:
        return os.getsid(process.pid) in sessions and Path(process.cwd()).is_relative_to(folder)
    except (psutil.Error, OSError):
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _send(processes: Iterable[psutil.Process], number: signal.Signals, seconds: float) -> None:
    """Send a signal to ``processes`` and give them ``seconds`` to end."""
    for process in (processes := list(processes)):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=seconds)
