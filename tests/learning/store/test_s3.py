"""The S3 store against a real server: wrong settings, a dead endpoint and bad weather."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3.session
import pytest

from demo.seaweedfs import SeaweedFS
from learning.store.s3_weather import (
    CONFLICT,
    ERROR_IN_200,
    INTERNAL_ERROR,
    LOST_ANSWER,
    RESET,
    SLOW_DOWN,
    TRUNCATED,
    Fault,
    Plan,
    Request,
    S3Weather,
    stormy,
)
from transfer_learning.errors import BadInput, OutcomeUnknown, PreconditionFailed, StoreUnreachable
from transfer_learning.store import Store, documents, patience
from transfer_learning.store.s3 import S3ObjectStore, client_config, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "tests"
MIB = 1024 * 1024


def behind(seaweedfs: SeaweedFS, endpoint: str) -> S3Client:
    return s3_client(endpoint, access_key=seaweedfs.access_key, secret_key=seaweedfs.secret_key)


@contextlib.contextmanager
def weather(seaweedfs: SeaweedFS, plan: Plan, prefix: str) -> Iterator[tuple[S3Weather, S3ObjectStore]]:
    with S3Weather(seaweedfs.endpoint, plan) as proxy:
        yield proxy, S3ObjectStore(behind(seaweedfs, proxy.endpoint), BUCKET, prefix)


def first(fault: Fault, times: int = 1, method: str | None = None) -> Plan:
    """The first requests (of one method) meet a fault."""
    seen: list[int] = []

    def plan(request: Request) -> Fault | None:
        if method in (None, request.method) and len(seen) < times:
            seen.append(request.number)
            return fault
        return None

    return plan


@pytest.mark.integration
@pytest.mark.parametrize(
    ("bucket", "wrong", "line"),
    [
        ("missing", {}, "NO_BUCKET s3://missing/"),
        (BUCKET, {"access_key": "AKIACANARY"}, "ACCESS_DENIED .* S3 code InvalidAccessKeyId"),
        (BUCKET, {"secret_key": "canary"}, "ACCESS_DENIED .* S3 code SignatureDoesNotMatch"),
    ],
)
def test_wrong_settings_are_found_by_the_check_in_one_line(
    seaweedfs: SeaweedFS, bucket: str, wrong: dict[str, str], line: str
) -> None:
    credentials = {"access_key": seaweedfs.access_key, "secret_key": seaweedfs.secret_key} | wrong
    store = Store.open(f"s3://{bucket}/wrong", s3_client=s3_client(seaweedfs.endpoint, **credentials))

    with pytest.raises(BadInput, match=f"^{line}") as caught:
        store.check()

    assert not any(secret in str(caught.value) for secret in credentials.values())


@pytest.mark.integration
@pytest.mark.parametrize("known", [False, True])
def test_a_missing_right_to_write_is_found_by_the_check_in_one_line(seaweedfs: SeaweedFS, s3: S3Client, known: bool) -> None:
    prefix = f"read-only-{known}"
    if known:
        Store(S3ObjectStore(s3, BUCKET, prefix)).check()

    with (
        weather(seaweedfs, first(Fault("error", 403, "AccessDenied"), times=9, method="PUT"), prefix) as (_, objects),
        pytest.raises(BadInput, match=r"^ACCESS_DENIED .*/store\.json the server at .* refused to write: S3 code AccessDenied"),
    ):
        Store(objects).check()


@pytest.mark.integration
def test_neighbours_of_the_prefix_are_not_seen(s3: S3Client) -> None:
    S3ObjectStore(s3, BUCKET, "root").put("mine", b"")
    S3ObjectStore(s3, BUCKET, "root-2").put("theirs", b"")
    s3.put_object(Bucket=BUCKET, Key="root/folder/", Body=b"")  # as some consoles make a folder

    assert [info.key for info in S3ObjectStore(s3, BUCKET, "root").list("")] == ["mine"]


@pytest.mark.integration
def test_more_keys_than_one_page_holds_are_listed(s3: S3Client, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = S3ObjectStore(s3, BUCKET, "pages")
    for number in range(7):
        objects.put(f"{number}", b"")
    list_objects = s3.list_objects_v2
    monkeypatch.setattr(s3, "list_objects_v2", lambda **where: list_objects(**where, MaxKeys=3))

    assert [info.key for info in objects.list("")] == [str(number) for number in range(7)]


@pytest.mark.integration
@pytest.mark.parametrize("fault", [INTERNAL_ERROR, SLOW_DOWN, RESET, TRUNCATED, ERROR_IN_200], ids=str)
def test_a_read_outlives_bad_weather(seaweedfs: SeaweedFS, s3: S3Client, fault: Fault, tmp_path: Path) -> None:
    S3ObjectStore(s3, BUCKET, "read").put("a.json", b"content")

    with weather(seaweedfs, first(fault, method="GET"), "read") as (_, objects):
        assert objects.get("a.json").data == b"content"
    with weather(seaweedfs, first(fault, method="GET"), "read") as (_, objects):
        assert [info.key for info in objects.list("")] == ["a.json"]


@pytest.mark.integration
@pytest.mark.parametrize("fault", [LOST_ANSWER, Fault("committed_error")], ids=str)
def test_a_lost_answer_to_a_conditional_write_looks_like_a_lost_race_and_is_settled(
    seaweedfs: SeaweedFS, s3: S3Client, fault: Fault, request: pytest.FixtureRequest
) -> None:
    prefix = f"lost-{fault.kind}".replace("_", "-")
    with weather(seaweedfs, first(fault, method="PUT"), prefix) as (_, objects), pytest.raises(PreconditionFailed):
        objects.put("raw", b"x", if_absent=True)
    with weather(seaweedfs, first(fault, method="PUT"), prefix) as (_, objects):
        document, mine = documents.create(objects, "settled.json", {})

    assert mine
    assert documents.read(S3ObjectStore(s3, BUCKET, prefix), "settled.json") == document


@pytest.mark.integration
def test_a_conflict_is_tried_again(seaweedfs: SeaweedFS) -> None:
    with weather(seaweedfs, first(CONFLICT, times=2, method="PUT"), "conflict") as (_, objects):
        assert documents.create(objects, "a.json", {})[1]


@pytest.mark.integration
def test_a_large_file_goes_up_copied_and_down_through_a_storm(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    data = bytes(range(256)) * (40 * MIB // 256)
    (tmp_path / "sent").write_bytes(data)
    counted: list[int] = []

    with weather(seaweedfs, stormy(0.15, seed=1), "storm") as (proxy, objects):
        objects.upload("large", tmp_path / "sent", counted.append)
        objects.copy("large", "copy")
        objects.download("copy", tmp_path / "received", counted.append)

    assert (tmp_path / "received").read_bytes() == data
    assert sum(counted) == 2 * len(data)
    assert any(fault for _, fault in proxy.requests)


@pytest.mark.integration
def test_bytes_that_are_sent_again_are_counted_once(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(b"x" * 20 * MIB)
    up: list[int] = []
    down: list[int] = []

    with S3Weather(seaweedfs.endpoint, first(SLOW_DOWN, method="PUT")) as proxy:
        client = _quick_client(proxy.endpoint, seaweedfs, total_max_attempts=1)
        S3ObjectStore(client, BUCKET, "again").upload("large", tmp_path / "sent", up.append)
    with S3Weather(seaweedfs.endpoint, first(SLOW_DOWN, method="GET")) as proxy:
        client = _quick_client(proxy.endpoint, seaweedfs, total_max_attempts=1)
        S3ObjectStore(client, BUCKET, "again").download("large", tmp_path / "received", down.append)

    assert (sum(up), sum(down)) == (20 * MIB, 20 * MIB)
    assert len([count for count in (*up, *down) if count < 0])


@pytest.mark.integration
def test_a_server_that_is_no_s3_server_is_refused_with_one_line(seaweedfs: SeaweedFS) -> None:
    with (
        weather(seaweedfs, lambda request: Fault("error", 404, "Not Found"), "strange") as (_, objects),
        pytest.raises(BadInput, match=r"^NOT_S3 s3://tests/strange/store\.json http://127.0.0.1:\d+ answers a write with 404"),
    ):
        Store(objects).check()


def test_a_refused_connection_ends_in_one_line_that_names_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "REFUSED_SECONDS", 1.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = Store.open("s3://news/root", s3_client=_quick_client(endpoint, total_max_attempts=2))

        begun = time.monotonic()
        with pytest.raises(StoreUnreachable, match=rf"^{endpoint} gave no usable answer when asked to read .*Could not connect"):
            store.check()

    assert time.monotonic() - begun < 5


@pytest.fixture
def swallower() -> Iterator[str]:
    """An endpoint that takes requests and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("name", "call", "kind"),
    [
        ("get", lambda objects, path: objects.get("a"), StoreUnreachable),
        ("list", lambda objects, path: objects.list(""), StoreUnreachable),
        ("put", lambda objects, path: objects.put("a", b"x"), OutcomeUnknown),
        ("upload", lambda objects, path: objects.upload("a", path), OutcomeUnknown),
        ("download", lambda objects, path: objects.download("a", path.with_name("b")), StoreUnreachable),
        ("copy", lambda objects, path: objects.copy("a", "b"), OutcomeUnknown),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_endpoint_that_never_answers_ends_within_the_time_allowed(
    swallower: str,
    tmp_path: Path,
    name: str,
    call: Callable[[S3ObjectStore, Path], object],
    kind: type[Exception],
) -> None:
    # A thirtieth of what the store allows: timeout 25 s, patience 60 s.
    client = _quick_client(swallower, read_timeout=25 / 30)
    (tmp_path / "file").write_bytes(b"x" * 1000)

    begun = time.monotonic()
    with pytest.raises(kind, match=f"^{swallower} gave no usable answer"):
        call(S3ObjectStore(client, "news", patience=2.0), tmp_path / "file")

    assert time.monotonic() - begun < 4


def _quick_client(
    endpoint: str, server: SeaweedFS | None = None, *, read_timeout: float = 25.0, total_max_attempts: int = 5
) -> S3Client:
    retries = {"mode": "standard", "total_max_attempts": total_max_attempts}
    config = client_config(read_timeout=read_timeout, retries=retries, s3={"addressing_style": "path"})
    keys = (server.access_key, server.secret_key) if server else ("a", "b")
    session = boto3.session.Session(*keys, region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint, config=config)


EXPIRED = Fault("error", 400, "ExpiredToken")


@pytest.fixture
def expiring(seaweedfs: SeaweedFS) -> Iterator[tuple[S3ObjectStore, list[str], list[str]]]:
    """A store whose first client is turned away once ``expired`` holds something; every renewal is noted."""
    expired: list[str] = []
    renewals: list[str] = []
    with S3Weather(seaweedfs.endpoint, lambda request: EXPIRED if expired else None) as proxy:

        def renew() -> S3Client:
            renewals.append("renewed")
            return behind(seaweedfs, seaweedfs.endpoint)

        yield S3ObjectStore(behind(seaweedfs, proxy.endpoint), BUCKET, "expiring", renew=renew), expired, renewals


@pytest.mark.integration
@pytest.mark.parametrize("call", ["get", "put", "list", "exists", "download", "upload", "copy", "delete"])
def test_a_token_that_expires_is_renewed_once(
    expiring: tuple[S3ObjectStore, list[str], list[str]], tmp_path: Path, call: str
) -> None:
    objects, expired, renewals = expiring
    objects.put("a", b"content")
    (tmp_path / "sent").write_bytes(b"sent")
    expired.append("now")
    arguments = {"put": (b"x",), "download": (tmp_path / "got",), "upload": (tmp_path / "sent",), "copy": ("b",)}

    for _ in range(2):
        found = getattr(objects, call)("a", *arguments.get(call, ()))
        assert call != "exists" or found

    assert renewals == ["renewed"]


@pytest.mark.integration
@pytest.mark.parametrize("renewing", [True, False])
def test_a_token_that_stays_expired_is_one_line(seaweedfs: SeaweedFS, tmp_path: Path, renewing: bool) -> None:
    renewals = []
    with S3Weather(seaweedfs.endpoint, lambda request: EXPIRED) as proxy:

        def renew() -> S3Client:
            renewals.append("renewed")
            return behind(seaweedfs, proxy.endpoint)

        objects = S3ObjectStore(renew(), BUCKET, "expired", renew=renew if renewing else None)
        for use in (lambda: objects.get("a"), lambda: objects.upload("a", Path(__file__))):
            with pytest.raises(BadInput, match=r"^CREDENTIALS_EXPIRED s3://tests/expired/a .* S3 code ExpiredToken — renew the"):
                use()

    assert len(renewals) == (3 if renewing else 1)
