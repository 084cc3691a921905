from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from demo.loopback import HOST, free_ports
from demo.seaweedfs import SeaweedFS

pytestmark = pytest.mark.integration

PARENT = """
import os, signal, sys
from pathlib import Path
from demo.seaweedfs import SeaweedFS
server = SeaweedFS(Path(sys.argv[1]))
Path(sys.argv[1], "pid").write_text(str(server.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_stored_is_there_after_a_kill_and_a_second_start(tmp_path: Path) -> None:
    with SeaweedFS(tmp_path, buckets=["news"]) as first:
        first.client().put_object(Bucket="news", Key="a", Body=b"kept")

    with SeaweedFS(tmp_path, buckets=["news"], access_key=first.access_key, secret_key=first.secret_key) as second:
        assert second.client().get_object(Bucket="news", Key="a")["Body"].read() == b"kept"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody has."""
    with socket.socket() as somebody:
        somebody.bind((HOST, 0))
        yield somebody.getsockname()[1]


def test_a_port_that_somebody_took_first_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    chosen = iter([[taken, *free_ports(9)], free_ports(10)])
    monkeypatch.setattr("demo.seaweedfs.free_ports", lambda count: next(chosen))

    with SeaweedFS(tmp_path, buckets=["news"]) as server:
        assert server.client().list_buckets()["Buckets"][0]["Name"] == "news"
        assert server.endpoint != f"http://{HOST}:{taken}"


def test_a_server_that_ends_each_time_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr("demo.seaweedfs.free_ports", lambda count: [taken] * count)

    with pytest.raises(RuntimeError, match=r"did not answer .* \(the process ended with \d+; see .*/seaweedfs.log\)"):
        SeaweedFS(tmp_path)


def test_each_server_has_credentials_of_its_own(seaweedfs: SeaweedFS) -> None:
    stranger = seaweedfs.client(aws_access_key_id="someone", aws_secret_access_key="else")

    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        stranger.list_buckets()


def test_a_missing_bucket_is_not_created_by_a_write(seaweedfs: SeaweedFS) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        seaweedfs.client().put_object(Bucket="missing", Key="a", Body=b"")


def test_the_server_dies_with_its_parent(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PARENT, str(tmp_path)], timeout=60, check=False)

    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_running(pid)


def test_a_thread_may_not_start_it_since_it_would_end_with_the_thread(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def start() -> None:
        try:
            SeaweedFS(tmp_path)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

    assert "main thread" in str(errors[0])


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
