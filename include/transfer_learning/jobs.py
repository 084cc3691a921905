"""A job: one stage, its spec and its pinned inputs, run in a fresh child process.

The parent has no torch; the child has no credentials. Every end of the child becomes one of ``errors``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer_learning import child
from transfer_learning.errors import (
    BadInput,
    Crashed,
    Diverged,
    HostOutOfMemory,
    OutOfMemory,
    Stopped,
    TransferLearningError,
    one_line,
)
from transfer_learning.settings import Settings

GRACE_SECONDS = 3.0
"""Between the stop signal and the kill: Airflow itself kills 5 s after a stop from its UI."""

POLL_SECONDS = 0.1

ENDS: dict[str, type[TransferLearningError]] = {
    "out_of_memory": OutOfMemory,
    "diverged": Diverged,
    "stopped": Stopped,
    "crashed": Crashed,
}

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class JobResult:
    """What a finished job left behind."""

    out: Path
    metrics: dict[str, Any]
    seconds: float
    peak_memory: int
    """Bytes."""
    numerics: dict[str, Any]
    files: list[dict[str, Any]]


class StopFlag:
    """Set from a signal handler: remembers the wish and signals the child, and touches nothing that could hold a lock."""

    def __init__(self) -> None:
        self.is_set = False
        self._group: int | None = None

    def set(self) -> None:
        """Ask the job to stop."""
        self.is_set = True
        if self._group is not None:
            _signal_group(self._group, signal.SIGTERM)

    def watch(self, group: int) -> None:
        """Signal this process group from now on; at once if the flag is already set."""
        self._group = group
        if self.is_set:
            _signal_group(group, signal.SIGTERM)

    def forget(self) -> None:
        """Signal nobody from now on: the child has ended, and its number may become another process's."""
        self._group = None


def run_job(
    stage: str,
    spec: Settings,
    inputs: Mapping[str, Sequence[Path]],
    *,
    work: Path,
    facts: Mapping[str, Any] | None = None,
    resume_from: Path | None = None,
    cache: Path | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    watch: Callable[[], None] | None = None,
    python: str | None = None,
    threads: int | None = None,
    limits: Mapping[str, int] | None = None,
    stop: StopFlag | None = None,
) -> JobResult:
    """Run one stage in a child process of its own group below ``work`` and wait for its end.

    Call it from the main thread: the child dies with the thread that started it.

    Args:
        stage: name of the stage, such as ``fine_tune``.
        spec: its settings.
        inputs: folders by role.
        work: an empty folder of the job's own; ``out``, ``checkpoints``, ``new_cache`` and ``output.log`` appear in it.
        facts: what the model card may tell.
        resume_from: a complete checkpoint.
        cache: a folder that the child only reads.
        on_progress: called with each line of figures.
        watch: called several times a second while the child runs, and once after; what it raises kills the child.
        python: interpreter of the child; None is this one.
        threads: of the child's arithmetic; None as of ``child.environment``.
        limits: ``memory_mb`` and ``cpu_seconds`` of the child.
        stop: set it to stop the job.

    Raises:
        BadInput, Diverged, OutOfMemory, HostOutOfMemory, Stopped, Crashed: as the outcome table says.
    """
    stop = stop or StopFlag()
    if stop.is_set:
        raise Stopped("STOPPED before it started; a retry starts over")
    job_file = _write_job(stage, spec, inputs, work, facts, resume_from, cache, threads, limits)
    with _started(python or sys.executable, job_file, child.environment(os.environ, threads, limits)) as process:
        stop.watch(process.pid)
        try:
            _follow(process, work / "progress.jsonl", on_progress or (lambda _: None), watch or (lambda: None), stop)
        finally:
            stop.forget()
    return _outcome(stage, process.returncode, work, stop, limits or {})


def _write_job(
    stage: str,
    spec: Settings,
    inputs: Mapping[str, Sequence[Path]],
    work: Path,
    facts: Mapping[str, Any] | None,
    resume_from: Path | None,
    cache: Path | None,
    threads: int | None,
    limits: Mapping[str, int] | None,
) -> Path:
    for folder in ("out", "checkpoints", "new_cache"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    job = {
        "protocol": 1,
        "stage": stage,
        "spec": spec.to_dict(),
        "inputs": {role: [str(folder) for folder in folders] for role, folders in inputs.items()},
        "out": str(work / "out"),
        "checkpoints": str(work / "checkpoints"),
        "resume_from": str(resume_from) if resume_from else None,
        "cache": str(cache) if cache else None,
        "new_cache": str(work / "new_cache"),
        "progress": str(work / "progress.jsonl"),
        "threads": threads,
        "facts": dict(facts or {}),
        "limits": dict(limits or {}),
    }
    job_file = work / "job.json"
    job_file.write_text(json.dumps(job, indent=1), encoding="utf-8")
    return job_file


@contextlib.contextmanager
def _started(python: str, job_file: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the child with its output in a file: an inherited pipe would keep Airflow waiting for a leftover of it."""
    with (job_file.parent / "output.log").open("wb") as output:
        try:
            process = subprocess.Popen(
                [python, "-m", "transfer_learning.run", str(job_file)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            what = f"the child's interpreter {python} cannot be started: {error.strerror}"
            raise BadInput("BAD_CONFIG", what, "correct the setting python, and install this release there") from None
    try:
        yield process
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _follow(
    process: subprocess.Popen[bytes],
    progress: Path,
    on_progress: Callable[[dict[str, Any]], None],
    watch: Callable[[], None],
    stop: StopFlag,
) -> None:
    """Hand on the child's figures until it ends; kill it when the grace time after a stop is over."""
    lines = _Tail(progress)
    deadline: float | None = None
    while process.poll() is None:
        for line in lines.read():
            on_progress(line)
        watch()
        if stop.is_set:
            deadline = deadline or time.monotonic() + GRACE_SECONDS
            if time.monotonic() > deadline:
                log.warning("The child did not end within %.0f s of the stop signal: killed", GRACE_SECONDS)
                break  # it may have written its last checkpoint all the same
        time.sleep(POLL_SECONDS)
    for line in lines.read():
        on_progress(line)
    watch()


def _outcome(stage: str, returncode: int | None, work: Path, stop: StopFlag, limits: Mapping[str, int]) -> JobResult:
    """Turn the child's end into a result or an error."""
    result = _read_result(work / "result.json", returncode)
    if result is not None and result["status"] == "finished":
        if stop.is_set:
            raise Stopped(f"STOPPED while stage {stage} finished; a retry runs it again")
        return JobResult(
            work / "out", result["metrics"], result["seconds"], result["peak_memory"], result["numerics"], result["files"]
        )
    if stop.is_set:
        raise Stopped(result["message"] if result and result["message"] else f"STOPPED stage {stage}; a retry resumes it")
    if result is None or result["status"] == "crashed":
        for line in _last_lines(work / "output.log", 30):  # the file goes with the work folder
            log.warning("child: %s", line)
    if result is not None:
        raise _error(result)
    if returncode == -signal.SIGXCPU:
        seconds = limits.get("cpu_seconds")
        raise BadInput("TOO_SLOW", f"stage {stage} used more than {seconds} s of processor time", "send less or raise the limit")
    last = _last_lines(work / "output.log", 3)
    tail = f"; its last lines: {one_line(' | '.join(last))}" if last else ""
    if returncode == -signal.SIGKILL:
        raise HostOutOfMemory(f"KILLED stage {stage}: SIGKILL from outside, most likely this machine's memory ran out{tail}")
    raise Crashed(f"CRASHED stage {stage} ended with {_ending(returncode)}{tail}")


def _read_result(path: Path, returncode: int | None) -> dict[str, Any] | None:
    """Return the child's result if it is whole and agrees with how the child ended."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if result.get("code") == returncode else None


def _error(result: Mapping[str, Any]) -> TransferLearningError:
    message = one_line(str(result["message"]))
    if result["status"] == "bad_input":
        return BadInput.from_line(message)
    return ENDS.get(result["status"], Crashed)(message)


def _ending(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit code {returncode}"


def _last_lines(output: Path, count: int) -> list[str]:
    """Return the child's last lines."""
    try:
        lines = output.read_bytes()[-8000:].decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


class _Tail:
    """Reads whole JSON lines as they are appended to a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)
