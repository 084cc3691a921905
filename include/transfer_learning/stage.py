"""What a stage is given beside its spec and its folders. Torch-free; shared by every stage and by what runs them."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

NUMERICS_VERSIONS = {"pull_dataset": 3, "pretrain": 4, "feature_extract": 3, "fine_tune": 7, "evaluate": 1, "compare": 1}
"""Raised by hand when the same input would give other numbers; part of every fingerprint. Golden vectors in the
tests tell where that is so in fp32."""

Inputs = Mapping[str, Sequence[Path]]
"""Folders by role: ``train``, ``validation``, ``test``, ``unlabelled``, ``source``, ``base``, ``candidate``, ``champion`` …"""

Stage = Callable[[Any, Inputs, Path, "Run"], Mapping[str, Any]]
"""``stage(spec, inputs, out, run) -> metrics``: folders in, folder out; no store, no Airflow, no network."""


@dataclasses.dataclass(kw_only=True)
class Run:
    """One run of one stage: where it reports, where it checkpoints, what it may use."""

    progress_file: Path | None = None
    checkpoints: Path | None = None
    """Complete checkpoints appear here as folders; None means none are wanted."""
    resume_from: Path | None = None
    """A complete checkpoint to go on from."""
    cache: Path | None = None
    """Read-only, staged by the parent."""
    new_cache: Path | None = None
    """Parts that the parent publishes."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the parent knows and the model card tells: model, base, dataset, champion, as_of."""
    device: str = "cpu"
    rank: int = 0
    world_size: int = 1
    threads: int | None = None
    numerics: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Every choice that was measured or depends on the machine; saved in checkpoints and in the passport."""
    _stop: bool = dataclasses.field(default=False, init=False)

    @property
    def stop_requested(self) -> bool:
        """Whether the job was asked to stop: checkpoint if it can be done at once, then raise ``Stopped``."""
        return self._stop

    def listen_for_stop(self) -> None:
        """Let SIGTERM set ``stop_requested``."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def progress(self, **figures: Any) -> None:
        """Append figures such as ``phase``, ``step``, ``loss``, ``lr``, ``rows_per_second``, ``eta`` (s) as one JSON line."""
        if self.progress_file is not None:
            with self.progress_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": time.time(), **figures}) + "\n")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._stop = True
