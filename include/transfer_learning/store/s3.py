"""The object store over S3, through boto3."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import boto3.session
from boto3.s3.transfer import ProgressCallbackInvoker
from botocore.config import Config
from s3transfer.futures import TransferFuture
from s3transfer.manager import TransferConfig, TransferManager

from transfer_learning.disk import room_for
from transfer_learning.errors import BadInput, ObjectMissing, PreconditionFailed
from transfer_learning.store.object_store import ObjectInfo, ObjectStore, OnBytes, Stored, check_key
from transfer_learning.store.patience import Patience, refuse_when_late
from transfer_learning.store.s3_errors import ErrorInsteadOfObject, explain, is_expired, is_weather

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
Begin = Callable[[TransferManager, list[Any]], TransferFuture]

MIB = 1024 * 1024
WHOLE_FILE_ATTEMPTS = 5
TRANSFER = TransferConfig(multipart_threshold=16 * MIB, multipart_chunksize=16 * MIB, max_request_concurrency=4)
COPY = TransferConfig(multipart_threshold=256 * MIB, multipart_chunksize=256 * MIB, max_request_concurrency=4)
"""The server moves the bytes, so parts are large; one request may copy at most 5 GiB."""
ERROR_DOCUMENT = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<Error>")


def client_config(**options: Any) -> Config:
    """Return what a client of this store should be configured with; ``options`` win.

    A request without an answer is given up after 25 s: contended conditional writes take seconds on SeaweedFS, and a dead
    endpoint must be called dead within 60 s, at the second try.
    """
    defaults: dict[str, Any] = {
        "connect_timeout": 5,
        "read_timeout": 25,
        "retries": {"mode": "standard", "total_max_attempts": 5},
        "max_pool_connections": 32,
    }
    return Config(**{**defaults, **options})


def s3_client(
    endpoint_url: str | None = None,
    *,
    region: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    session_token: str | None = None,
) -> S3Client:
    """Return a client with sane timeouts; what is None comes from the usual AWS chain (environment, files, instance)."""
    session = boto3.session.Session(access_key, secret_key, session_token, region_name=region)

    def make(**options: Any) -> S3Client:
        return session.client(
            "s3", endpoint_url=endpoint_url, region_name=session.region_name or "us-east-1", config=client_config(**options)
        )

    client = make()
    # Other servers rarely have a host name for each bucket; asked of the client because files may name an endpoint too.
    return client if client.meta.endpoint_url.endswith(".amazonaws.com") else make(s3={"addressing_style": "path"})


class S3ObjectStore(ObjectStore):
    """Keys below a prefix of a bucket; safe for several threads.

    boto3 repeats a conditional write whose answer was lost, and then reports its own success as a lost race: every caller of a
    conditional ``put`` goes through ``documents``, which reads back.

    Args:
        client: for the bucket's region; see ``client_config``.
        bucket: its name.
        prefix: of every key, without slashes at the ends; empty for the whole bucket.
        patience: how long one call may go on repeating itself, s.
        renew: makes a client with today's credentials; asked once by each call that finds the session's token expired.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str = "",
        *,
        patience: float = 60.0,
        renew: Callable[[], S3Client] | None = None,
    ) -> None:
        self.uri = f"s3://{bucket}/{check_key(prefix)}" if prefix else f"s3://{bucket}"
        self._client = _with_patience(client)
        self._renew = renew
        self._renewing = threading.Lock()
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._patience = patience
        self._endpoint = client.meta.endpoint_url

    def get(self, key: str) -> Stored:
        def read() -> Stored:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._full(key))
            data, etag = answer["Body"].read(), answer.get("ETag", "")
            if ERROR_DOCUMENT.match(data) and hashlib.md5(data, usedforsecurity=False).hexdigest() != etag.strip('"'):
                raise ErrorInsteadOfObject("the server answered 200 with an error as the body")
            return Stored(data, etag)

        return self._ask("read", key, read)

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match is not None else {}

        def write() -> str:
            return self._client.put_object(Bucket=self._bucket, Key=self._full(key), Body=data, **condition)["ETag"]

        try:
            return self._ask("write", key, write, writing=True)
        except ObjectMissing as error:
            if if_match is not None:
                raise PreconditionFailed(f"{self.full_uri(key)} is gone") from error
            fix = "check the endpoint in the connection"
            raise BadInput("NOT_S3", f"{self._endpoint} answers a write with 404", fix, file=self.full_uri(key)) from error

    def upload(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        def begin(manager: TransferManager, subscribers: list[Any]) -> TransferFuture:
            return manager.upload(str(path), self._bucket, self._full(key), subscribers=subscribers)

        self._transfer("write", key, begin, TRANSFER, on_bytes, writing=True)

    def download(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        def begin(manager: TransferManager, subscribers: list[Any]) -> TransferFuture:
            return manager.download(self._bucket, self._full(key), str(path), subscribers=subscribers)

        def refuse_error() -> None:
            with path.open("rb") as file:
                suspicious = ERROR_DOCUMENT.match(file.read(200)) is not None
            if suspicious and path.stat().st_size != self._size(key):
                raise ErrorInsteadOfObject("the server answered 200 with an error as the body")

        with room_for(path, lambda: self._size(key)):
            self._transfer("read", key, begin, TRANSFER, on_bytes, writing=False, check=refuse_error)

    def copy(self, source: str, target: str) -> None:
        origin: Any = {"Bucket": self._bucket, "Key": self._full(source)}

        def begin(manager: TransferManager, subscribers: list[Any]) -> TransferFuture:
            return manager.copy(origin, self._bucket, self._full(target), subscribers=subscribers)

        try:
            self._transfer("write", target, begin, COPY, None, writing=True)
        except ObjectMissing as error:
            raise ObjectMissing(f"no object {self.full_uri(source)}") from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # SeaweedFS lists folder by folder, which is another order.
        return iter(sorted(self.scan(prefix), key=lambda info: info.key))

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield what ``list`` does as the pages come, in the server's own order."""
        where: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._root + prefix}
        while True:
            page = self._ask("list", prefix, lambda: self._client.list_objects_v2(**where))
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):  # a folder marker that some other tool left
                    yield ObjectInfo(item["Key"][len(self._root) :], item["Size"], item["LastModified"])
            if not page.get("IsTruncated"):
                break
            where["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        self._ask("delete", key, lambda: self._client.delete_object(Bucket=self._bucket, Key=self._full(key)), writing=True)

    def exists(self, key: str) -> bool:
        try:
            self._size(key)
        except ObjectMissing:
            return False
        return True

    def _size(self, key: str) -> int:
        head = self._ask("read", key, lambda: self._client.head_object(Bucket=self._bucket, Key=self._full(key)))
        return head["ContentLength"]

    def _full(self, key: str) -> str:
        return self._root + check_key(key)

    def _ask(self, doing: str, key: str, call: Callable[[], T], *, writing: bool = False) -> T:
        """Call until there is an answer or time is up; the errors are the project's own."""
        patience = Patience(self._patience)
        renewed = False
        while True:
            client = self._client
            try:
                with patience.bound():
                    return call()
            except Exception as error:
                if not renewed and self._renewed(client, error):
                    renewed = True
                    continue
                if not is_weather(error) or not patience.allows_another(error):
                    self._raise(error, doing, key, writing)
                patience.pause()

    def _transfer(
        self,
        doing: str,
        key: str,
        begin: Begin,
        config: TransferConfig,
        on_bytes: OnBytes | None,
        *,
        writing: bool,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """As ``_ask``, for a whole file in several parts at once; patience starts anew whenever more bytes have moved."""
        renewed = False
        for attempt in range(1, WHOLE_FILE_ATTEMPTS + 1):
            client = self._client
            patience = Patience(self._patience)
            moved = _Moved(on_bytes, patience)
            threads: Any = partial(ThreadPoolExecutor, initializer=patience.bind)
            try:
                with TransferManager(client, config, executor_cls=threads) as manager:
                    begin(manager, [ProgressCallbackInvoker(moved)]).result()
                check()
                return
            except Exception as error:
                if not renewed and self._renewed(client, error):
                    renewed = True
                    moved.take_back()
                    continue
                if attempt == WHOLE_FILE_ATTEMPTS or not is_weather(error) or not patience.allows_another(error):
                    self._raise(error, doing, key, writing)
                moved.take_back()
                patience.pause()

    def _renewed(self, client: S3Client, error: Exception) -> bool:
        """Put a new client in the place of one whose token has expired; another thread may have done it already."""
        if self._renew is None or not is_expired(error):
            return False
        with self._renewing:
            if self._client is client:
                self._client = _with_patience(self._renew())
        return True

    def _raise(self, error: Exception, doing: str, key: str, writing: bool) -> NoReturn:
        explained = explain(error, doing=doing, uri=f"{self.uri}/{key}", endpoint=self._endpoint, writing=writing)
        if explained is error:
            raise error
        raise explained from error


def _with_patience(client: S3Client) -> S3Client:
    client.meta.events.register("before-send.s3", refuse_when_late, unique_id="transfer-learning-patience")
    return client


class _Moved:
    """Passes on how many bytes moved, and can take them back when the whole file is sent again."""

    def __init__(self, on_bytes: OnBytes | None, patience: Patience) -> None:
        self._on_bytes = on_bytes
        self._patience = patience
        self._total = 0
        self._most = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._total += count
            if self._total > self._most:  # sending the same part again is no progress
                self._most = self._total
                self._patience.restart()
            if self._on_bytes is not None:
                self._on_bytes(count)

    def take_back(self) -> None:
        """Report the opposite of everything counted."""
        if self._on_bytes is not None and self._total:
            self._on_bytes(-self._total)
