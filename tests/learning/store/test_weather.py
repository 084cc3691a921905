"""Whole flows against the real S3 server, through a proxy that makes bad weather."""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import boto3.session
import pytest

from demo.seaweedfs import SeaweedFS
from learning.store.s3_weather import (
    CONFLICT,
    ERROR_IN_200,
    LOST_ANSWER,
    SKEWED,
    TRUNCATED,
    WEATHER,
    Fault,
    Plan,
    Request,
    S3Weather,
)
from learning.store.test_datasets import DAY_1, pulled
from learning.store.tiny import digest, publish, write_ledger
from promises import sizes
from transfer_learning.errors import BadInput, OutcomeUnknown, StoreError, StoreUnreachable
from transfer_learning.ledger_files import read_ledger
from transfer_learning.store import Store
from transfer_learning.store.s3 import S3ObjectStore, client_config, s3_client

T = TypeVar("T")

BUCKET = "tests"
MIB = 1024 * 1024
SHARE = 0.05
TIMEOUT = 2.0
"""A request without an answer is given up after this, s; the store's own 25 s would only make the tests longer."""
STALLED = Fault("delayed", seconds=TIMEOUT * 1.5)
TRIES = 4
"""Of a task, as Airflow would."""


@contextlib.contextmanager
def behind(seaweedfs: SeaweedFS, plan: Plan, prefix: str, *, attempts: int = 5, patience: float = 60.0) -> Iterator[Store]:
    """A store behind the weather."""
    with S3Weather(seaweedfs.endpoint, plan) as proxy:
        retries = {"mode": "standard", "total_max_attempts": attempts}
        config = client_config(read_timeout=TIMEOUT, retries=retries, s3={"addressing_style": "path"})
        session = boto3.session.Session(seaweedfs.access_key, seaweedfs.secret_key, region_name="us-east-1")
        client = session.client("s3", endpoint_url=proxy.endpoint, config=config)
        yield Store(S3ObjectStore(client, BUCKET, prefix, patience=patience))


def clear(seaweedfs: SeaweedFS, prefix: str) -> Store:
    """The same store without the weather."""
    client = s3_client(seaweedfs.endpoint, access_key=seaweedfs.access_key, secret_key=seaweedfs.secret_key)
    return Store(S3ObjectStore(client, BUCKET, prefix))


class Storm:
    """About this share of the requests meet a fault; ``met`` counts them by kind."""

    def __init__(self, share: float, seed: int) -> None:
        self._share, self._draw, self._lock = share, random.Random(seed), threading.Lock()
        self.met: collections.Counter[str] = collections.Counter()
        self.requests = 0

    def __call__(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests += 1
            if self._draw.random() >= self._share:
                return None
            faults = [*WEATHER, STALLED, ERROR_IN_200]
            fault = self._draw.choice([*faults, CONFLICT] if request.conditional else faults)
            self.met[f"{fault.kind} {fault.status} {fault.code}" if fault.kind == "error" else fault.kind] += 1
            return fault


def first_of_each(fault: Fault, wanted: Callable[[Request], bool]) -> Plan:
    """The first request of each method and path that is wanted meets the fault."""
    seen: set[tuple[str, str]] = set()
    lock = threading.Lock()

    def plan(request: Request) -> Fault | None:
        with lock:
            if not wanted(request) or (request.method, request.path) in seen:
                return None
            seen.add((request.method, request.path))
            return fault

    return plan


class Task:
    """Tries again what may be tried again, as Airflow does, and counts the tries."""

    def __init__(self) -> None:
        self.tries: list[int] = []

    def __call__(self, work: Callable[[], T]) -> T:
        for attempt in itertools.count(1):
            try:
                result = work()
            except StoreError as error:
                if attempt == TRIES or not error.retryable:
                    raise
            else:
                self.tries.append(attempt)
                return result
        raise AssertionError("counting never ends")


LEDGERS = {1: ("a", "b", "c"), 2: ("a", "b", "c", "d")}
"""Rows by version: the ledger of the second one names the part of the first."""


def flow(store: Store, folder: Path, task: Task) -> None:
    """One night and a morning after: data, two versions, promoted, rolled back, fetched."""
    task(store.check)
    snapshot = pulled(folder / "out", DAY_1)
    task(lambda: store.datasets.publish("bbc", snapshot))
    for seed in (1, 2):
        ledger = write_ledger(folder / f"{seed}.parquet", *LEDGERS[seed])
        ref, _ = task(lambda seed=seed, ledger=ledger: publish(store.objects, folder / "sent", seed, ledger=ledger))  # type: ignore[misc]
        assert ref.version == seed
        task(lambda seed=seed: promote(store, seed))  # type: ignore[misc]
    task(lambda: store.aliases.rollback("news", promote_id="desk", actor="ada", reason="complaints"))
    task(lambda: store.models.fetch("news", 2, folder / "fetched"))
    latest = task(lambda: store.datasets.latest("bbc"))
    assert latest is not None
    task(lambda: store.datasets.fetch("bbc", latest["digest"], destination=folder / "data"))


def promote(store: Store, version: int) -> None:
    move = store.aliases.promote(
        "news",
        version,
        promote_id=f"night {version}",
        actor="dag",
        reason="better",
        expected_generation=version - 1 or None,
        as_of=f"2026-01-0{version}",
    )
    assert move.moved


def check_flow(store: Store, folder: Path) -> None:
    """What the flow must have left, whatever it met on its way."""
    assert [manifest["publish_id"] for manifest in store.models.versions("news")] == [digest("publish", 1), digest("publish", 2)]
    assert [(a.version, a.promote_id) for a in store.aliases.history("news")] == [(1, "night 1"), (2, "night 2"), (1, "desk")]
    for version in (1, 2):
        store.models.fetch("news", version, folder / f"checked-{version}")
        [ledger] = store.models.fetch_ledger("news", version, folder / "ledgers")
        assert len(read_ledger(ledger)) == len(LEDGERS[version])
    latest = store.datasets.latest("bbc")
    assert latest is not None
    store.datasets.fetch("bbc", latest["digest"], destination=folder / "checked-data")


def run_flows(seaweedfs: SeaweedFS, tmp_path: Path, count: int, threads: int) -> tuple[int, int]:
    """Run flows, check what each left, and return how many requests they made and how many of these were disturbed."""
    run = digest(tmp_path.as_posix())[:8]

    def one(number: int) -> tuple[collections.Counter[str], int, list[int]]:
        storm, task, folder = Storm(SHARE, number), Task(), tmp_path / str(number)
        folder.mkdir()
        with behind(seaweedfs, storm, f"flow-{run}-{number}") as store:
            flow(store, folder, task)
        check_flow(clear(seaweedfs, f"flow-{run}-{number}"), folder)
        return storm.met, storm.requests, task.tries

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(one, range(count)))
    met = sum((faults for faults, _, _ in results), collections.Counter[str]())
    tries = collections.Counter(attempts for _, _, all_tries in results for attempts in all_tries)
    requests = sum(number for _, number, _ in results)
    print(f"{dict(met)}; tries of a task: {dict(sorted(tries.items()))}")
    return requests, met.total()


@pytest.mark.integration
@pytest.mark.promise(16)
@pytest.mark.parametrize("count", sizes(4, 500))
def test_flows_in_bad_weather_end_right(seaweedfs: SeaweedFS, tmp_path: Path, count: int, held: Callable[[str], None]) -> None:
    requests, disturbed = run_flows(seaweedfs, tmp_path, count, threads=2 if count < 10 else 4)

    assert 0 < disturbed < requests
    held(f"{count} of {count} flows finished: {requests:,} requests, {disturbed:,} of them disturbed")


@pytest.mark.integration
@pytest.mark.parametrize("attempts", [5, 1], ids=["repeated by the client", "not repeated"])
def test_losing_the_answer_to_every_conditional_write_changes_nothing(
    seaweedfs: SeaweedFS, tmp_path: Path, attempts: int
) -> None:
    plan = first_of_each(LOST_ANSWER, lambda request: request.conditional and "store.json" not in request.path)
    task, prefix = Task(), f"every-answer-{attempts}"

    with behind(seaweedfs, plan, prefix, attempts=attempts) as store:
        flow(store, tmp_path, task)

    assert set(task.tries) == {1}
    check_flow(clear(seaweedfs, prefix), tmp_path)


@pytest.mark.integration
def test_a_rollback_whose_answer_is_lost_is_one_rollback(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    store = clear(seaweedfs, "lost-rollback")
    for seed in (1, 2):
        publish(store.objects, tmp_path, seed)
        promote(store, seed)
    plan = first_of_each(LOST_ANSWER, lambda request: request.method == "PUT" and request.path.endswith("champion.json"))

    with behind(seaweedfs, plan, "lost-rollback") as troubled:
        move = troubled.aliases.rollback("news", promote_id="desk", actor="ada", reason="complaints")

    assert (move.moved, move.alias.version) == (True, 1)
    assert [alias.version for alias in store.aliases.history("news")] == [1, 2, 1]


@pytest.mark.integration
def test_a_download_that_is_cut_off_is_repeated(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    publish(clear(seaweedfs, "cut").objects, tmp_path, 1)
    plan = first_of_each(TRUNCATED, lambda request: request.method == "GET" and "/artifacts/" in request.path)

    with behind(seaweedfs, plan, "cut") as store:
        folder = store.models.fetch("news", 1, tmp_path / "fetched")

    assert (folder / "vocab.txt").read_text() == "[PAD]\ncat\ndog\n"


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["artifacts", "ledgers", "parts"])
def test_an_error_in_the_place_of_a_file_is_not_taken_for_the_file(seaweedfs: SeaweedFS, tmp_path: Path, kind: str) -> None:
    store = clear(seaweedfs, f"error-for-{kind}")
    flow(store, tmp_path, Task())
    plan = first_of_each(ERROR_IN_200, lambda request: request.method == "GET" and f"/{kind}/" in request.path)

    with behind(seaweedfs, plan, f"error-for-{kind}") as troubled:
        check_flow(troubled, tmp_path)

    [ledger] = store.models.fetch_ledger("news", 2, tmp_path / "again")
    assert ledger.read_bytes() == (tmp_path / "ledgers" / ledger.name).read_bytes()


@pytest.mark.integration
def test_a_download_that_is_always_cut_off_is_refused_and_leaves_nothing(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    publish(clear(seaweedfs, "always-cut").objects, tmp_path / "sent", 1)
    plan: Plan = lambda request: TRUNCATED if "/artifacts/" in request.path else None  # noqa: E731

    with behind(seaweedfs, plan, "always-cut", attempts=2, patience=4.0) as store, pytest.raises(StoreUnreachable) as caught:
        store.models.fetch("news", 1, tmp_path / "out" / "fetched")

    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.integration
def test_a_clock_that_is_wrong_is_one_line_with_the_offset(seaweedfs: SeaweedFS) -> None:
    with (
        behind(seaweedfs, lambda request: SKEWED, "skewed") as store,
        pytest.raises(BadInput, match=r"^CLOCK_SKEW .*; this clock is [\d,]+ minutes ahead of the server's — correct"),
    ):
        store.check()


def copies(request: Request) -> bool:
    return "x-amz-copy-source" in {name.lower() for name in request.headers}


def completes(request: Request) -> bool:
    return request.method == "POST" and "uploadId=" in request.path


@pytest.mark.integration
@pytest.mark.parametrize("wanted", [copies, completes], ids=lambda wanted: wanted.__name__)
def test_an_error_with_status_200_is_repeated(seaweedfs: SeaweedFS, tmp_path: Path, wanted: Callable[[Request], bool]) -> None:
    data = bytes(range(256)) * (17 * MIB // 256)
    (tmp_path / "sent").write_bytes(data)

    with behind(seaweedfs, first_of_each(ERROR_IN_200, wanted), f"error-200-{wanted.__name__}") as store:
        store.objects.upload("large", tmp_path / "sent")
        store.objects.copy("large", "copied")
        store.objects.download("copied", tmp_path / "received")

    assert (tmp_path / "received").read_bytes() == data


@pytest.mark.integration
@pytest.mark.parametrize("wanted", [copies, completes], ids=lambda wanted: wanted.__name__)
def test_an_error_with_status_200_is_never_taken_for_success(
    seaweedfs: SeaweedFS, tmp_path: Path, wanted: Callable[[Request], bool]
) -> None:
    (tmp_path / "sent").write_bytes(b"x" * 17 * MIB)
    plan: Plan = lambda request: ERROR_IN_200 if wanted(request) else None  # noqa: E731
    prefix = f"always-200-{wanted.__name__}"
    clear(seaweedfs, prefix).objects.put("small", b"x")

    with behind(seaweedfs, plan, prefix, attempts=2, patience=2.0) as store, pytest.raises(OutcomeUnknown):
        store.objects.copy("small", "target") if wanted is copies else store.objects.upload("target", tmp_path / "sent")

    assert not clear(seaweedfs, prefix).objects.exists("target")


@pytest.mark.integration
def test_a_publish_with_errors_of_status_200_on_every_write_ends_right(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    plan = first_of_each(ERROR_IN_200, lambda request: request.method in ("PUT", "POST"))
    task = Task()

    with behind(seaweedfs, plan, "every-200") as store:
        flow(store, tmp_path, task)

    check_flow(clear(seaweedfs, "every-200"), tmp_path)


@pytest.mark.integration
@pytest.mark.promise(16)
@pytest.mark.full
def test_a_server_that_stops_answering_ends_within_a_minute_in_one_line(
    seaweedfs: SeaweedFS, held: Callable[[str], None]
) -> None:
    with S3Weather(seaweedfs.endpoint, lambda request: Fault("delayed", seconds=90)) as proxy:
        client = s3_client(proxy.endpoint, access_key=seaweedfs.access_key, secret_key=seaweedfs.secret_key)
        store = Store(S3ObjectStore(client, BUCKET, "stops"))
        begun = time.monotonic()

        with pytest.raises(StoreUnreachable, match=rf"^{proxy.endpoint} gave no usable answer") as caught:
            store.check()

    seconds = time.monotonic() - begun
    assert seconds < 60
    assert "\n" not in str(caught.value)
    held(f"a dead endpoint ended in {seconds:.0f} s with one line")
