"""Checkpoints: safetensors and JSON only. One is complete when ``_COMPLETE.json``, written last, names every file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from transfer_learning.blocks import freezing
from transfer_learning.errors import BadInput, Stopped, TransferLearningError
from transfer_learning.hashes import sha256_of
from transfer_learning.settings import Settings, canonical_json
from transfer_learning.stage import NUMERICS_VERSIONS, Run

FORMAT = 1
COMPLETE = "_COMPLETE.json"
FACTS = "state.json"
KEPT = 2

log = logging.getLogger(__name__)

Tensors = Mapping[str, torch.Tensor]


class Damaged(Exception):
    """A checkpoint that is not whole; the one before is used."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What one checkpoint holds."""

    files: Mapping[str, Tensors]
    """Tensors by file stem: ``weights``, ``optimizer``, ``best``, ``features``."""
    facts: Mapping[str, Any]
    """Everything else, as JSON values."""


class Checkpoints:
    """Writes checkpoints of one run: by time, preferably at an epoch's end, and when asked to stop.

    Args:
        run: its ``checkpoints`` folder, None writes nothing; its ``stop_requested`` is polled.
        identity: of this job, and whatever else must be the same for a checkpoint to fit it; stored in each.
        seconds: between two checkpoints.
    """

    def __init__(self, run: Run, identity: Mapping[str, Any], seconds: float) -> None:
        self._run, self._identity, self._seconds = run, dict(identity), seconds
        self._last = time.monotonic()

    def poll(self, tick: int, snapshot: Callable[[], Snapshot], *, epoch_end: bool = False, best: int | None = None) -> None:
        """Write a checkpoint when one is due, and end when asked to.

        Args:
            tick: position in the whole job; names the folder.
            snapshot: called only when a checkpoint is written.
            epoch_end: a good moment: taken when half the time has passed.
            best: tick of the best one so far, which is kept.

        Raises:
            Stopped: the job was asked to stop.
        """
        stop = self._run.stop_requested
        age = time.monotonic() - self._last
        due = age >= self._seconds or (epoch_end and age >= self._seconds / 2)
        if self._run.checkpoints is not None and (due or stop):
            self._write(self._run.checkpoints, tick, snapshot(), best)
            self._last = time.monotonic()
        if stop:
            raise Stopped(f"STOPPED at step {tick} — a retry resumes there")

    def end_if_asked(self) -> None:
        """End where there is nothing new to write.

        Raises:
            Stopped: the job was asked to stop.
        """
        if self._run.stop_requested:
            raise Stopped("STOPPED before a step — a retry resumes where the last checkpoint stands")

    def _write(self, folder: Path, tick: int, snapshot: Snapshot, best: int | None) -> None:
        facts = {"format": FORMAT, "tick": tick, "identity": self._identity, **snapshot.facts}
        write(folder, tick, Snapshot(snapshot.files, facts))
        prune(folder, best)


def end_before_training(run: Run) -> None:
    """End long work of which no checkpoint keeps anything, such as training a tokenizer.

    Raises:
        Stopped: the job was asked to stop.
    """
    if run.stop_requested:
        raise Stopped("STOPPED before training — a retry resumes where the last checkpoint stands")


def identity_of(stage: str, spec: Settings, rows: str, model: nn.Module | None = None) -> dict[str, str]:
    """Return what a checkpoint must share with a job: settings that decide the result, numerics, rows and base weights.

    Args:
        stage: that trains.
        spec: its settings.
        rows: digest of what is learned from.
        model: with the base's weights, before anything trains; None starts from scratch.
    """
    shared = {"spec": _digest(spec.canonical()), "rows": rows, "numerics": str(NUMERICS_VERSIONS[stage])}
    return shared if model is None else shared | {"base": _digest(freezing.hashes(model.state_dict().items()))}


def write(folder: Path, tick: int, snapshot: Snapshot) -> Path:
    """Write a checkpoint whole or not at all and return its folder ``step-00001234``.

    Args:
        folder: receives it.
        tick: the number in its name.
        snapshot: what it holds.

    Raises:
        TransferLearningError: the disk is full; path and bytes needed are named and nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{tick:08d}"
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
    needed = sum(tensor.nbytes for tensors in snapshot.files.values() for tensor in tensors.values())
    try:
        for stem, tensors in snapshot.files.items():
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(plain, temporary / f"{stem}.safetensors")
        (temporary / FACTS).write_text(json.dumps(snapshot.facts), encoding="utf-8")
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(temporary.iterdir())}
        (temporary / COMPLETE).write_text(json.dumps({"format": FORMAT, "files": files}), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TransferLearningError(f"CHECKPOINT {target} needs {needed} bytes: {error} — free some space") from error
    return target


def prune(folder: Path, best: int | None) -> None:
    """Keep the newest two checkpoints and the best."""
    steps = sorted(folder.glob("step-*"))
    keep = {path.name for path in steps[-KEPT:]} | ({f"step-{best:08d}"} if best is not None else set())
    for path in steps:
        if path.name not in keep:
            with contextlib.suppress(OSError):
                (path / COMPLETE).unlink()  # first, so that a reader never meets half a complete one
            shutil.rmtree(path, ignore_errors=True)


def read(path: Path) -> Snapshot:
    """Read one checkpoint.

    Raises:
        Damaged: not complete, a file missing, added or changed.
    """
    try:
        complete = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
        listed = complete["files"]
        found = {entry.name for entry in path.iterdir()} - {COMPLETE}
        if complete["format"] != FORMAT or found != set(listed):
            raise Damaged(f"{path.name} holds {sorted(found)}, and {COMPLETE} names {sorted(listed)}")
        for name, entry in listed.items():
            if (path / name).stat().st_size != entry["bytes"] or sha256_of(path / name) != entry["sha256"]:
                raise Damaged(f"{path.name}/{name} is not the file that was written")
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        files = {name.removesuffix(".safetensors"): load_file(path / name) for name in listed if name.endswith(".safetensors")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise Damaged(f"{path.name} cannot be read: {error}") from None
    return Snapshot(files, facts)


def resume(run: Run, identity: Mapping[str, Any]) -> Snapshot | None:
    """Return the newest whole checkpoint, from ``run.resume_from`` backwards; None without one.

    A damaged one is skipped loudly for the one before. When none is whole the job starts over, as loudly.

    Raises:
        BadInput: the checkpoint belongs to another job.
    """
    if run.resume_from is None:
        return None
    for path in _newest_first(run.resume_from):
        try:
            snapshot = read(path)
        except Damaged as damage:
            log.warning("CHECKPOINT SKIPPED: %s; going on with the one before", damage)
            run.progress(phase="resume", skipped=path.name, reason=str(damage))
            continue
        if snapshot.facts.get("identity") != dict(identity):
            raise BadInput(
                "WRONG_CHECKPOINT", "belongs to a job with other settings, data or base model", "start without it", file=path
            )
        run.progress(phase="resume", checkpoint=path.name)
        return snapshot
    log.warning("NO WHOLE CHECKPOINT in %s: starting over", run.resume_from.parent)
    run.progress(phase="resume", checkpoint=None, reason="no whole checkpoint: starting over")
    return None


def stored_identity(run: Run) -> dict[str, Any]:
    """Return what the newest checkpoint whose facts are whole was written for; empty without one.

    For what a job decides before it can tell its identity; ``resume`` then tells whether the checkpoint is this job's.
    """
    for path in _newest_first(run.resume_from) if run.resume_from else ():
        try:
            listed = json.loads((path / COMPLETE).read_text(encoding="utf-8"))["files"]
            if sha256_of(path / FACTS) == listed[FACTS]["sha256"]:
                return dict(json.loads((path / FACTS).read_text(encoding="utf-8"))["identity"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _newest_first(newest: Path) -> list[Path]:
    """Return a checkpoint and those before it."""
    before = (path for path in newest.parent.glob("step-*") if path.name < newest.name)
    return [newest, *sorted(before, reverse=True)]
