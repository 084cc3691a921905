"""What only a local directory can get wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer_learning.errors import BadInput, ObjectMissing
from transfer_learning.store.local import LocalObjectStore

COUNT = """
import sys
from pathlib import Path
from transfer_learning.errors import PreconditionFailed
from transfer_learning.store.local import LocalObjectStore

objects = LocalObjectStore(Path(sys.argv[1]))
for _ in range(25):
    while True:
        stored = objects.get("count")
        try:
            objects.put("count", str(int(stored.data) + 1).encode(), if_match=stored.etag)
            break
        except PreconditionFailed:
            pass
"""

OVERWRITE = """
import sys
from pathlib import Path
from transfer_learning.store.local import LocalObjectStore

objects = LocalObjectStore(Path(sys.argv[1]))
print("started", flush=True)
while True:
    for byte in (b"a", b"b"):
        objects.put("document.json", byte * 1_000_000)
"""


def test_processes_that_count_by_compare_and_swap_lose_no_update(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    objects.put("count", b"0")

    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(3)]

    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert objects.get("count").data == b"75"


@pytest.mark.promise(13)
def test_a_writer_killed_at_any_moment_leaves_a_whole_object(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    objects.put("document.json", b"a" * 1_000_000)

    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", OVERWRITE, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(20):
            assert objects.get("document.json").data in (b"a" * 1_000_000, b"b" * 1_000_000)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert objects.get("document.json").data in (b"a" * 1_000_000, b"b" * 1_000_000)

    assert [info.key for info in objects.list("")] == ["document.json"]


@pytest.mark.promise(19)
@pytest.mark.parametrize("way", ["put", "upload", "copy"])
def test_a_full_disk_is_one_line_and_the_old_object_stands(tmp_path: Path, disk_of: Callable[[int], None], way: str) -> None:
    objects = LocalObjectStore(tmp_path / "store")
    objects.put("kept", b"old")
    objects.put("large", b"x" * 100_000)
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    write = {
        "put": lambda: objects.put("kept", b"x" * 100_000),
        "upload": lambda: objects.upload("kept", tmp_path / "file"),
        "copy": lambda: objects.copy("large", "kept"),
    }
    disk_of(50_000)

    with pytest.raises(
        BadInput, match=rf"^DISK_FULL {tmp_path}/store/kept needs 100,000 bytes, and the disk is full — make room"
    ):
        write[way]()

    assert objects.get("kept").data == b"old"
    assert not list((tmp_path / "store" / ".transfer-learning" / "unfinished").iterdir())


@pytest.mark.promise(19)
def test_a_full_disk_at_a_download_leaves_no_partial_file(tmp_path: Path, disk_of: Callable[[int], None]) -> None:
    objects = LocalObjectStore(tmp_path / "store")
    objects.put("large", b"x" * 100_000)
    (tmp_path / "here").mkdir()
    disk_of(50_000)

    with pytest.raises(BadInput, match=rf"^DISK_FULL {tmp_path}/here/large needs 100,000 bytes"):
        objects.download("large", tmp_path / "here" / "large")

    assert list((tmp_path / "here").iterdir()) == []


def test_a_link_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"secret")
    objects = LocalObjectStore(tmp_path / "store")
    objects.put("a", b"")
    (tmp_path / "store" / "models").symlink_to(tmp_path / "secret")

    for use in (lambda: objects.get("models/key"), lambda: objects.put("models/key", b"x"), lambda: objects.delete("models/key")):
        with pytest.raises(BadInput, match="^BAD_NAME key 'models/key' leaves the store's root"):
            use()

    assert (tmp_path / "secret" / "key").read_bytes() == b"secret"


def test_the_stores_own_folder_is_no_place_for_keys(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="BAD_NAME"):
        LocalObjectStore(tmp_path).put(".transfer-learning/lock", b"")


def test_a_folder_is_no_object_and_an_object_no_folder(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    objects.put("models/news", b"")

    with pytest.raises(ObjectMissing):
        objects.get("models")
    for key in ("models", "models/news/a"):
        with pytest.raises(BadInput, match=rf"^BAD_NAME file://.*/{key} is the name of an object and of a folder of objects"):
            objects.put(key, b"")


def test_looking_at_a_root_that_does_not_exist_makes_nothing(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path / "store")

    assert list(objects.list("models/")) == []
    assert not objects.exists("store.json")
    assert not (tmp_path / "store").exists()
