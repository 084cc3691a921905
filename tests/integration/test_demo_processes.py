"""Nothing that the demo starts outlives it: not after its end, a signal, or its own death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from demo.processes import stop_leftovers, take

pytestmark = pytest.mark.integration

# Like Airflow: a process that forks a worker into a session of its own and ignores polite signals.
FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    {session}
    open("worker-up", "w").close()
time.sleep(60)
"""

DEMO = """
import os, signal, sys, time
from pathlib import Path
from demo import processes as p
folder = Path(sys.argv[1])
p.POLITE_SECONDS = 0.2
p.end_on_signals()
family = p.Processes(folder)
try:
    family.start("family", [sys.executable, "-c", sys.argv[2]], os.environ)
    while not (folder / "worker-up").exists():
        time.sleep(0.02)
    print("up", flush=True)
    time.sleep(60)
finally:
    family.stop()
"""


def start_demo(folder: Path, session: str) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [sys.executable, "-c", DEMO, str(folder), FAMILY.format(session=session)]
    demo = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "include"}, stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    with demo.stdout:
        assert demo.stdout.readline() == "up\n"
    return demo


def working_below(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_and_all_its_descendants(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = start_demo(folder, session="os.setsid()")
    assert len(working_below(folder)) == 2
    demo.send_signal(number)
    assert demo.wait(20) == 128 + number
    assert working_below(folder) == []


def test_the_next_demo_stops_what_a_killed_one_left(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = start_demo(folder, session="pass")
    demo.kill()
    demo.wait(20)
    deadline = time.monotonic() + 10
    while len(working_below(folder)) > 1 and time.monotonic() < deadline:  # the leader dies with the demo, its fork does not
        time.sleep(0.05)
    assert stop_leftovers(folder) == 1
    assert working_below(folder) == []


def test_a_recorded_number_that_now_belongs_to_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    with subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path, start_new_session=True) as stranger:
        (tmp_path / "demo" / "pids.json").write_text(f"[{stranger.pid}]")
        assert stop_leftovers(tmp_path / "demo") == 0
        assert stranger.poll() is None
        stranger.kill()


def test_two_demos_cannot_share_a_folder(tmp_path: Path) -> None:
    lock = take(tmp_path / "demo")
    try:
        with pytest.raises(SystemExit, match="Another demo runs in"):
            take(tmp_path / "demo")
    finally:
        os.close(lock)
    os.close(take(tmp_path / "demo"))
