"""Airflow's config section ``[transfer_learning]``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from airflow.sdk import conf

from airflow_transfer_learning.provider_info import OPTIONS
from transfer_learning.errors import BadInput

SECTION = "transfer_learning"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """How this Airflow deployment runs jobs; the options are described in ``provider_info``."""

    queue: str
    pool: str
    executor: str | None
    cache_folder: Path
    cache_bytes: int
    python: str | None
    deployment: str


def deployment() -> Deployment:
    """Read the config section.

    Raises:
        BadInput: a cache size that is no number above zero.
    """
    values = {name: (conf.get(SECTION, name, fallback=default) or "").strip() for name, (_, default, _, _) in OPTIONS.items()}
    cache_folder = values["cache_folder"] or airflow_home() / "transfer_learning" / "cache"
    return Deployment(
        queue=values["queue"],
        pool=values["pool"],
        executor=values["executor"] or None,
        cache_folder=Path(cache_folder).expanduser(),
        cache_bytes=_gigabytes(values["cache_size_gb"]),
        python=values["python"] or None,
        deployment=values["deployment"],
    )


def airflow_home() -> Path:
    """Return AIRFLOW_HOME, as Airflow itself reads it."""
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def executors_are_local() -> bool:
    """Return whether every configured executor runs its tasks on the scheduler's machine."""
    entries = conf.get("core", "executor", fallback="LocalExecutor").replace(";", ",").split(",")
    # An entry may read "team=alias:package.module.Class"; what counts is the class.
    classes = [entry.strip().rpartition("=")[2].rpartition(":")[2].rpartition(".")[2] for entry in entries if entry.strip()]
    return all(name == "LocalExecutor" for name in classes)


def _gigabytes(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not size > 0:
        raise BadInput("BAD_CONFIG", f"[{SECTION}] cache_size_gb must be a number above 0, found {text[:40]!r}")
    return int(size * 10**9)
