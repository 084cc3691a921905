"""Staging one source, without Airflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learning.pulling import make_spec
from transfer_learning.errors import BadInput
from transfer_learning.sources import stage_sources

ROWS = [("1", "a text", "x"), ("2", "another", "y")]


def staged(tmp_path: Path, source, **options) -> list[dict]:
    """Stage one source and return ``sources.json``."""
    sources = {name: options.pop(name) for name in ("s3_client", "sql", "hub", "window", "log") if name in options}
    stage_sources(make_spec(source, **options), tmp_path / "staged", **sources)
    return json.loads((tmp_path / "staged" / "sources.json").read_text(encoding="utf-8"))


def refusal(tmp_path: Path, source, **options) -> str:
    with pytest.raises(BadInput) as caught:
        staged(tmp_path, source, **options)
    assert not (tmp_path / "staged" / "sources.json").exists()
    return str(caught.value)
