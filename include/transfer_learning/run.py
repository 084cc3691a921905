"""What the child executes: ``python -m transfer_learning.run JOB.json``. One stage, folders in, folder out.

Reads ``job.json``: ``protocol`` (1), ``stage``, ``spec``, ``inputs`` {role: [folders]}, ``out``, and optionally ``checkpoints``,
``resume_from``, ``cache``, ``new_cache``, ``progress``, ``threads``, ``facts``, ``limits``. Writes ``result.json`` beside it:
``protocol``, ``status``, ``code`` (the exit code), ``message`` (one line), ``metrics``, ``files`` [{path, bytes, sha256}],
``peak_memory`` (bytes), ``seconds``, ``numerics``. Exit codes are those of ``errors``; 0 is finished.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transfer_learning import child, specs
from transfer_learning.disk import room_for
from transfer_learning.errors import (
    BadInput,
    DeviceOutOfMemory,
    HostOutOfMemory,
    TransferLearningError,
    is_of_accelerator,
    is_out_of_memory,
    nearest,
    one_line,
)
from transfer_learning.hashes import sha256_of
from transfer_learning.settings import Settings
from transfer_learning.stage import Run, Stage

PROTOCOL = 1

STAGES: dict[str, type[Settings]] = {
    "pull_dataset": specs.PullSpec,
    "pretrain": specs.PretrainSpec,
    "feature_extract": specs.FeatureSpec,
    "rank": specs.RankSpec,
    "fine_tune": specs.FineTuneSpec,
    "evaluate": specs.EvaluateSpec,
    "compare": specs.CompareSpec,
    "merge": Settings,
}

LATE_IMPORTS = {"pyarrow": "pandas", "transformers": "transformers.generation.utils"}
"""What a library imports at its first use: to know a table of pandas when it sees one, and for every model's class."""

STATUS = {0: "finished", 65: "bad_input", 70: "crashed", 71: "out_of_memory", 72: "diverged", 75: "stopped"}


def main(argv: list[str] | None = None) -> int:
    """Run one job and return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m transfer_learning.run JOB.json\n")
        return 64
    child.die_with_parent()
    job_file = Path(arguments[0])
    started = time.monotonic()
    result: dict[str, Any] = {"protocol": PROTOCOL, "metrics": {}, "files": [], "numerics": {}}
    try:
        job = read_job(job_file)
        code, message = 0, ""
        result["metrics"], result["numerics"] = run_stage(job)
        result["files"] = list_files(Path(job["out"]))
    except Exception as error:  # every end becomes a result
        code, message = describe(error)
        result["metrics"], result["files"] = {}, []
    result |= {"status": STATUS[code], "code": code, "message": message, "seconds": time.monotonic() - started}
    result["peak_memory"] = child.peak_memory()
    write_result(job_file.with_name("result.json"), result)
    if message:
        sys.stderr.write(message + "\n")
    return code


def read_job(path: Path) -> dict[str, Any]:
    """Read and check a job file.

    Raises:
        BadInput: not readable, another protocol, an unknown stage, or a folder that is not there.
    """
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            "BAD_JOB", f"cannot be read: {error}", "write it as described in transfer_learning.run", file=path
        ) from None
    if not isinstance(job, dict) or job.get("protocol") != PROTOCOL:
        raise BadInput("BAD_JOB", f"protocol must be {PROTOCOL}", "use the same release on both sides", file=path)
    missing = [key for key in ("stage", "spec", "inputs", "out") if key not in job]
    if missing:
        raise BadInput("BAD_JOB", f"lacks {', '.join(missing)}", file=path)
    if job["stage"] not in STAGES:
        raise BadInput(
            "BAD_JOB", f"no stage {job['stage']!r}{nearest(str(job['stage']), STAGES)}", f"known: {', '.join(STAGES)}", file=path
        )
    for role, folders in job["inputs"].items():
        for folder in folders:
            if not Path(folder).is_dir():
                raise BadInput("BAD_JOB", f"input {role!r}: there is no folder {folder}", file=path)
    return job


def run_stage(job: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Run the job's stage in this process and return its metrics and numerics."""
    spec = STAGES[job["stage"]].from_dict(job["spec"])
    child.stay_offline()
    child.keep_to_limits(job.get("limits") or {})
    run = build_run(job)
    run.listen_for_stop()
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    inputs = {role: [Path(folder) for folder in folders] for role, folders in job["inputs"].items()}
    try:
        stage = import_stage(job["stage"])
        with _all_or_nothing(out), room_for(out):
            return stage(spec, inputs, out, run), run.numerics
    except Exception as error:
        if isinstance(error, TransferLearningError) or not is_out_of_memory(error):
            raise
        if is_of_accelerator(error):
            what = f"OUT_OF_MEMORY stage {job['stage']} needs more than is free of the accelerator's memory"
            raise DeviceOutOfMemory(f"{what} — free it of other processes, or take a larger one") from error
        limit = (job.get("limits") or {}).get("memory_mb")
        within = f"the limit of {limit} MiB — raise memory_limit_mb" if limit else "this machine's memory — take a larger one"
        raise HostOutOfMemory(f"OUT_OF_MEMORY stage {job['stage']} needs more than {within} or send less") from error


def import_stage(name: str) -> Stage:
    """Import a stage and all that it takes, with the garbage collector off, and never look through these objects again.

    They stay until the end. Looking through 400,000 of them takes a quarter of the time of the imports, 0.7 s, and 0.2 s whenever
    the collector looks at everything later on. So what a library would import at its first use is imported here too.
    """
    gc.disable()
    try:
        stage: Stage = getattr(importlib.import_module(f"transfer_learning.stages.{name}"), name)
        for library, later in LATE_IMPORTS.items():
            if library in sys.modules:
                with contextlib.suppress(ImportError):
                    importlib.import_module(later)
        gc.freeze()
    finally:
        gc.enable()
    return stage


@contextlib.contextmanager
def _all_or_nothing(out: Path) -> Iterator[None]:
    """Leave nothing in ``out`` unless the stage ends well."""
    try:
        yield
    except BaseException:
        for entry in list(out.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        raise


def build_run(job: Mapping[str, Any]) -> Run:
    """Build what the stage is given beside spec and folders."""

    def path(name: str) -> Path | None:
        return Path(job[name]) if job.get(name) else None

    return Run(
        progress_file=path("progress"),
        checkpoints=path("checkpoints"),
        resume_from=path("resume_from"),
        cache=path("cache"),
        new_cache=path("new_cache"),
        facts=job.get("facts") or {},
        threads=job.get("threads"),
    )


def describe(error: Exception) -> tuple[int, str]:
    """Return the exit code and the one line for an error; anything unforeseen also leaves its traceback in the output."""
    if isinstance(error, TransferLearningError):
        return error.exit_code if error.exit_code in STATUS else 70, one_line(str(error))
    traceback.print_exception(error)
    return 70, one_line(f"{type(error).__name__}: {error}")


def list_files(folder: Path) -> list[dict[str, Any]]:
    """Return path, bytes and sha256 of every file below ``folder``."""
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        files.append({"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_of(path)})
    return files


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking torch and its libraries down in order costs a second of processor time, and after a stop there are three in all.
    os._exit(code)
