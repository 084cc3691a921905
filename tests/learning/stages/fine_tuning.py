"""Runs the stage on tiny data as a job would, whole or stopped and resumed."""

import hashlib
from pathlib import Path
from typing import Any

from learning.tiny_model import make_rows, write_base, write_rows
from transfer_learning.errors import Stopped
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import Run
from transfer_learning.stages.fine_tune import fine_tune

TIMES = ("seconds", "rows_per_second")


class Job:
    """A tiny base model and rows in folders, and the stage on them.

    Args:
        folder: a fresh one.
        rows: training rows.
        validation: validation rows.
        kind: architecture of the base.
        contrary: the validation rows carry wrong labels, so that their loss rises while the model learns.
    """

    def __init__(self, folder: Path, rows: int = 30, validation: int = 0, kind: str = "bert", contrary: bool = False) -> None:
        self.folder = folder
        self.inputs = {
            "base": [write_base(folder / "base", kind)],
            "train": [write_rows(folder / "train", make_rows(rows), parts=2)],
        }
        if validation:
            held_out = make_rows(validation, seed=1)
            topics = [topic for _, topic in held_out]
            shifted = [*topics[1:], topics[0]] if contrary else topics
            named = [(text, topic) for (text, _), topic in zip(held_out, shifted, strict=True)]
            self.inputs["validation"] = [write_rows(folder / "validation", named)]

    def run(self, name: str = "out", run: Run | None = None, **settings: Any) -> dict[str, Any]:
        """Run the stage into ``folder/name`` and return its metrics without those that measure time."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        metrics = fine_tune(FineTuneSpec(**settings), self.inputs, out, run or Run(threads=1))
        return {key: value for key, value in metrics.items() if key not in TIMES}

    def run_stopping(self, name: str, every: int, **settings: Any) -> tuple[dict[str, Any], int]:
        """Run the stage, stopped at each ``every``-th poll and resumed; return metrics and the number of stops.

        ``every`` must leave room for one evaluation, which starts over after a stop.
        """
        resume_from, stops = None, 0
        while stops < 100:
            run = StoppingRun(threads=1, checkpoints=self.folder / f"{name}-checkpoints", resume_from=resume_from, after=every)
            try:
                return self.run(name, run, **settings), stops
            except Stopped:
                stops += 1
                resume_from = max((self.folder / f"{name}-checkpoints").glob("step-*"), default=None)
        raise AssertionError("no progress")


class StoppingRun(Run):
    """A run that is asked to stop after so many polls."""

    def __init__(self, *, after: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.left = after

    @property
    def stop_requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def weight_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every safetensors file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def files(folder: Path) -> list[str]:
    """Return every file below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
