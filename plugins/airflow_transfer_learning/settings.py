"""Airflow's config section ``[transfer_learning]``."""

from __future__ import annotations

import dataclasses
import math
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
    lease_seconds: float


def deployment() -> Deployment:
    """Read the config section.

    Raises:
        BadInput: a cache size that is no number above zero, or a lease too short to be renewed in time.
    """
    values = {name: (conf.get(SECTION, name, fallback=default) or "").strip() for name, (_, default, _, _) in OPTIONS.items()}
    cache_folder = values["cache_folder"] or airflow_home() / "transfer_learning" / "cache"
    return Deployment(
        queue=values["queue"],
        pool=values["pool"],
        executor=values["executor"] or None,
        cache_folder=Path(cache_folder).expanduser(),
        cache_bytes=int(_number("cache_size_gb", values["cache_size_gb"], above=0) * 10**9),
        python=values["python"] or None,
        deployment=values["deployment"],
        lease_seconds=_number("lease_seconds", values["lease_seconds"], above=1),
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


def _number(option: str, text: str, *, above: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not above < value < math.inf:
        raise BadInput("BAD_CONFIG", f"[{SECTION}] {option} must be a number above {above:g}, found {text[:40]!r}")
    return value
