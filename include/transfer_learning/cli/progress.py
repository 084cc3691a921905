"""How far a transfer is."""

from __future__ import annotations

import sys
import threading

from transfer_learning.store.artifacts import size_text


class ProgressLine:
    """A line on a terminal's standard error that says how far a transfer is; silent where nobody watches."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._shown = sys.stderr.isatty()
        self._lock = threading.Lock()

    def __enter__(self) -> ProgressLine:
        self.add(0)
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")

    def add(self, count: int) -> None:
        """Count bytes, from any thread."""
        with self._lock:
            self._done += count
            if self._shown:
                sys.stderr.write(f"\r\033[K{self._title}: {size_text(self._done)} of {size_text(self._total)}")
                sys.stderr.flush()
