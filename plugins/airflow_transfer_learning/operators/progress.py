"""A job's figures as log lines and as the task's state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context

LOG_SECONDS = 5.0
"""At most one log line in this time, s, unless the phase changes or something needs a reason."""

STATE_SECONDS = 2.0
"""At most one write of the task's state in this time, s: each is a request to Airflow's API server."""


class ProgressLog:
    """Called with each line of figures; logs some of them, and keeps the newest under ``progress`` in the task's state.

    Args:
        log: the operator's log.
        context: the task's context; without a state store, only the log is written.
    """

    def __init__(self, log: Any, context: Context) -> None:
        self._log = log
        self._state: Any = context.get("task_state_store")
        self._phase: object = None
        self._logged = self._stored = float("-inf")

    def __call__(self, figures: Mapping[str, Any]) -> None:
        """Take one line of figures."""
        now = time.monotonic()
        if figures.get("phase") != self._phase or "reason" in figures or now - self._logged >= LOG_SECONDS:
            self._phase, self._logged = figures.get("phase"), now
            self._log.info("%s", as_text(figures))
        if self._state is not None and now - self._stored >= STATE_SECONDS:
            self._stored = now
            self._store(figures)

    def _store(self, figures: Mapping[str, Any]) -> None:
        try:
            self._state.set("progress", dict(figures))
        except Exception as error:  # progress is a courtesy: training goes on without it
            self._log.warning("Progress could not be stored (%s); training goes on", type(error).__name__)
            self._state = None


def as_text(figures: Mapping[str, Any]) -> str:
    """Return figures as one line, such as ``train: step 40, loss 0.412``."""
    shown = (f"{name} {_number(value)}" for name, value in figures.items() if name not in ("time", "phase") and value is not None)
    return f"{figures.get('phase', 'progress')}: {', '.join(shown)}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
