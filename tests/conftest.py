"""Fixtures that every test may use: one real S3 server for the whole session, and the three object stores."""

from __future__ import annotations

import os
import re
import resource
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.seaweedfs import SeaweedFS
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "tests"
pytest_plugins = ["promises"]


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A running S3 server with the bucket ``tests``; a test that asks for it carries the marker ``integration``."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs"), buckets=[BUCKET]) as server:
        yield server


@pytest.fixture(scope="session")
def s3(seaweedfs: SeaweedFS) -> S3Client:
    """A client of the running server, made as the store makes its own."""
    from transfer_learning.store.s3 import s3_client

    return s3_client(seaweedfs.endpoint, access_key=seaweedfs.access_key, secret_key=seaweedfs.secret_key)


@pytest.fixture(params=["memory", "local", pytest.param("s3", marks=pytest.mark.integration)])
def new_objects(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ObjectStore]:
    """Makes further clients of the same, fresh root, as another process would."""
    if request.param == "memory":
        shared = MemoryObjectStore()
        return lambda: shared
    if request.param == "local":
        from transfer_learning.store.local import LocalObjectStore

        return lambda: LocalObjectStore(tmp_path / "store")
    from transfer_learning.store.s3 import S3ObjectStore

    client = request.getfixturevalue("s3")
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40]
    prefix = f"{name}{uuid.uuid4().hex[:8]}"
    return lambda: S3ObjectStore(client, BUCKET, prefix)


@pytest.fixture
def objects(new_objects: Callable[[], ObjectStore]) -> ObjectStore:
    """An empty object store of its own: in memory, in a local directory, and on the S3 server."""
    return new_objects()


@pytest.fixture
def disk_of() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow beyond so many bytes, which fails a write as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def pytest_configure(config: pytest.Config) -> None:
    """Let ``-m gpu`` alone see an accelerator: the other tests know the last bits of a processor."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--explorer-seed N`` replays one schedule of the explorer."""
    parser.addoption("--explorer-seed", type=int, help="replay this schedule of tests/learning/store/explorer.py only")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests that would start the server unmarked: the fast run deselects by marker."""
    for item in items:
        if "seaweedfs" in getattr(item, "fixturenames", ()) and item.get_closest_marker("integration") is None:
            raise pytest.UsageError(f"{item.nodeid} uses the fixture 'seaweedfs': mark it with @pytest.mark.integration")
