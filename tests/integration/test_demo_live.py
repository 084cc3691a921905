"""``make demo`` itself: real Airflow, a real S3 server, real news."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.live


def demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "demo", "--folder", str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": "include"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def left_below(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) or str(folder) in " ".join(process.cmdline()):
                found.append(process.name())
        except (psutil.Error, OSError):
            continue
    return found


def test_two_days_of_labels_end_in_a_better_champion(tmp_path: Path) -> None:
    with demo(tmp_path / "demo") as process:
        output, _ = process.communicate(timeout=3600)
    assert process.returncode == 0, output
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    first, second = summary["runs"]
    assert (summary["model"], summary["champion"]) == ("bbc-headlines", 2)
    assert [(run["rows"], run["version"], run["promoted"]) for run in (first, second)] == [(80, 1, True), (320, 2, True)]
    assert [first["verdict"], second["verdict"]] == ["first", "passed"]
    assert second["accuracy"] >= 0.82
    assert all(run["accuracy"] >= run["baseline_accuracy"] + 0.15 for run in (first, second))
    assert left_below(tmp_path / "demo") == []


@pytest.mark.parametrize("seconds", [1, 6, 14, 28, 45])
def test_ctrl_c_at_any_moment_leaves_no_process(seconds: float, tmp_path: Path) -> None:
    with demo(tmp_path / "demo") as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), output
    assert left_below(tmp_path / "demo") == []
