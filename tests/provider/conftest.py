"""What the tests of hook and operators share: an Airflow without a database, and the context of one task."""

from __future__ import annotations

import airflow_env  # noqa: F401  first of all

# isort: split
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_task import Task
from transfer_learning.store import Store


@pytest.fixture
def task() -> Task:
    return Task()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in a folder, behind the default connection."""
    return behind_the_default_connection(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The same for a whole file."""
    with pytest.MonkeyPatch.context() as patch:
        yield behind_the_default_connection(tmp_path_factory.mktemp("shared"), patch)


def behind_the_default_connection(folder: Path, patch: pytest.MonkeyPatch) -> Store:
    root = (folder / "store").as_uri()
    patch.setenv(
        "AIRFLOW_CONN_TRANSFER_LEARNING_DEFAULT", json.dumps({"conn_type": "transfer_learning", "extra": {"root": root}})
    )
    return Store.open(root)


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Any:
    """Publishes a version of a model, evaluated or not."""
    made = itertools.count(1)

    def publish(name: str, decision: str | None = None) -> int:
        number = next(made)
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"number": {number}}}')
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        ref, _ = store.models.publish(
            name=name, folder=folder, publish_id=f"{number:064x}", fingerprint=f"{number:064x}", facts={"as_of": None}
        )
        if decision is not None:
            evidence = tmp_path / f"evaluation-{number}"
            evidence.mkdir()
            verdict = {
                "format": 1,
                "decision": decision,
                "passed": decision in ("passed", "first"),
                "sentences": [f"It {decision}."],
            }
            (evidence / "verdict.json").write_text(json.dumps(verdict))
            store.evaluations.write(name, ref.version, "0" * 16, evidence)
        return ref.version

    return publish
