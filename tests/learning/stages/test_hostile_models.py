"""Hostile models through the child's real path: one line, exit 65, nothing written, nothing executed, nobody called."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from learning import watched
from learning.hostile_models import HARMLESS, HARMS
from learning.tiny_model import make_rows, write_rows
from tiny_classifiers import write_classifier

LABELS = ["business", "film", "sport"]
ROLE = {"fine_tune": "base", "evaluate": "candidate"}
FOLDERS = {**HARMLESS, **{name: harm for name, (harm, _) in HARMS.items()}}
"""The harmless ones come first, so that what a library does once in a process is not taken for a hostile model's doing."""


class Jobs:
    """One job for each folder and stage, all run by one watched child."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rows = {split: str(write_rows(root / split, make_rows(12, seed))) for split, seed in (("train", 1), ("test", 2))}
        self.files = {(name, stage): self.write(name, stage, rows) for name in FOLDERS for stage in ROLE}
        report = root / "report.json"
        done = subprocess.run(
            [sys.executable, watched.__file__, str(report), *map(str, self.files.values())],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert report.exists(), done.stderr[-3000:]
        self.seen: dict[str, list[str]] = json.loads(report.read_text())

    def write(self, name: str, stage: str, rows: dict[str, str]) -> Path:
        work = self.root / watched.HOSTILE / stage / re.sub(r"\W+", "-", name)
        model = write_classifier(work / "model", LABELS, passport=False)
        FOLDERS[name](model)
        inputs = {ROLE[stage]: [str(model)], "train": [rows["train"]]} | ({"test": [rows["test"]]} if stage == "evaluate" else {})
        spec = {"epochs": 1} if stage == "fine_tune" else {}
        job = {"protocol": 1, "stage": stage, "spec": spec, "inputs": inputs, "out": str(work / "out"), "threads": 1}
        (work / "job.json").write_text(json.dumps(job | {"limits": {"memory_mb": 8000}}))
        return work / "job.json"

    def result(self, name: str, stage: str) -> dict[str, Any]:
        return json.loads(self.files[name, stage].with_name("result.json").read_text())


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def says(line: str, pattern: str) -> bool:
    return re.fullmatch(".+".join(map(re.escape, pattern.split("…"))), line) is not None


REMOTE = [name for name, (_, line) in HARMS.items() if line.startswith("REMOTE_CODE")]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("stage", ROLE)
@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_model_is_used(jobs: Jobs, name: str, stage: str) -> None:
    result = jobs.result(name, stage)

    assert (result["code"], result["message"]) == (0, "")
    assert not [event for event in jobs.seen[str(jobs.files[name, stage])] if not event.startswith("socket.__new__")]


@pytest.mark.parametrize("stage", ROLE)
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.promise(21 if name in REMOTE else 20)) for name in HARMS])
def test_a_hostile_model_ends_in_one_line_and_nothing_is_run_or_written(jobs: Jobs, name: str, stage: str) -> None:
    job, result = jobs.files[name, stage], jobs.result(name, stage)

    line = result["message"].replace(str(job.parent / "model"), "{model}")
    assert (result["code"], says(line, HARMS[name][1])) == (65, True), line
    assert "\n" not in result["message"]
    assert (result["metrics"], result["files"], list((job.parent / "out").iterdir())) == ({}, [], [])
    assert jobs.seen[str(job)] == []
    assert not (job.parent / "executed").exists()
    assert result["seconds"] < 10 * 3


@pytest.mark.promise(20)
def test_no_hostile_model_executes_anything(jobs: Jobs, held: Callable[[str], None]) -> None:
    assert not [seen for (name, _), job in jobs.files.items() if name in HARMS for seen in jobs.seen[str(job)]]
    held(f"{len(HARMS)} hostile models in {len(ROLE)} stages: 0 executions, 0 pickles read")


@pytest.mark.promise(21)
def test_no_hostile_config_opens_a_socket_or_imports_its_code(jobs: Jobs, held: Callable[[str], None]) -> None:
    assert not [seen for (name, _), job in jobs.files.items() if name in REMOTE for seen in jobs.seen[str(job)]]
    held(f"{len(REMOTE)} hostile configs in {len(ROLE)} stages: 0 sockets, 0 imports")


def test_as_a_child_of_its_own_the_same_line_comes_and_exit_65(jobs: Jobs) -> None:
    job = jobs.files["pickle named in config", "evaluate"]
    expected = job.with_name("result.json").read_text()

    done = subprocess.run(
        [sys.executable, "-m", "transfer_learning.run", str(job)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr.splitlines()[-1]) == (65, json.loads(expected)["message"])
