"""The cache hands out what was asked for, whatever happened to its files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer_learning.errors import BadInput
from transfer_learning.store.cache import Cache


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Source:
    """Something to download, which counts how often it was."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sha256 = sha256(data)
        self.downloads = 0

    def __call__(self, path: Path) -> None:
        self.downloads += 1
        path.write_bytes(self.data)


def cached_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("??/*"))


def test_a_file_is_downloaded_once(tmp_path: Path) -> None:
    cache, source = Cache(tmp_path), Source(b"weights")

    first = cache.fetch(source.sha256, source)
    second = cache.fetch(source.sha256, source)

    assert first == second
    assert first.read_bytes() == b"weights"
    assert source.downloads == 1


@pytest.mark.parametrize("damage", [b"weighty", b"weight", b"", b"weights "])
def test_a_damaged_entry_is_noticed_and_fetched_again(tmp_path: Path, damage: bytes) -> None:
    cache, source = Cache(tmp_path), Source(b"weights")
    path = cache.fetch(source.sha256, source)
    path.chmod(0o644)
    path.write_bytes(damage)

    assert cache.fetch(source.sha256, source).read_bytes() == b"weights"
    assert source.downloads == 2


def test_a_download_with_another_hash_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"^HASH_MISMATCH was expected to have sha256 {'0' * 64}, found"):
        Cache(tmp_path).fetch("0" * 64, Source(b"other"))

    assert cached_files(tmp_path) == []


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        Cache(tmp_path).fetch("0" * 64, fail)

    assert cached_files(tmp_path) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "ABC", "", "0" * 63, "0" * 65])
def test_what_is_no_hash_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="is not a SHA-256"):
        Cache(tmp_path).fetch(name, Source(b""))


def test_what_was_used_longest_ago_goes_first_when_the_cache_is_full(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=25)
    sources = [Source(bytes([number]) * 10) for number in range(3)]
    for age, source in zip((300, 400), sources[:2], strict=True):
        moment = cache.fetch(source.sha256, source).stat().st_mtime - age
        os.utime(tmp_path / source.sha256[:2] / source.sha256, (moment, moment))
    cache.fetch(sources[1].sha256, sources[1])  # used again: the first is the oldest now

    cache.fetch(sources[2].sha256, sources[2])

    assert cached_files(tmp_path) == sorted(source.sha256 for source in sources[1:])


def test_a_file_larger_than_the_cache_is_handed_out_and_goes_with_the_next(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=5)
    large, small = Source(b"x" * 10), Source(b"y")

    assert cache.fetch(large.sha256, large).read_bytes() == b"x" * 10
    cache.fetch(small.sha256, small)

    assert cached_files(tmp_path) == [small.sha256]


def test_a_linked_file_stays_when_its_entry_is_evicted(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=5)
    first, second = Source(b"first"), Source(b"later")

    linked = cache.fetch(first.sha256, first, link=tmp_path / "model.safetensors")
    cache.fetch(second.sha256, second)

    assert linked == tmp_path / "model.safetensors"
    assert linked.read_bytes() == b"first"
    assert cached_files(tmp_path / "cache") == [second.sha256]


@pytest.mark.parametrize("writes_first", [False, True])
def test_a_file_is_laid_down_though_somebody_deletes_the_cache_meanwhile(tmp_path: Path, writes_first: bool) -> None:
    source, deletions = Source(b"weights"), iter(range(2))

    def deleted_twice(path: Path) -> None:
        if writes_first:
            source(path)
        if next(deletions, None) is not None:
            shutil.rmtree(tmp_path / "cache")
        if not writes_first:
            source(path)

    laid = Cache(tmp_path / "cache", max_bytes=1).fetch(source.sha256, deleted_twice, link=tmp_path / "laid")

    assert laid.read_bytes() == b"weights"
    assert cached_files(tmp_path / "cache") == [source.sha256]


def test_what_is_missing_for_good_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Cache(tmp_path / "cache").fetch(sha256(b""), lambda path: Path(path, "nowhere").write_bytes(b""))


def test_unfinished_files_of_a_killed_process_go_after_a_day(tmp_path: Path) -> None:
    cache, source = Cache(tmp_path, max_bytes=1000), Source(b"weights")
    folder = cache.fetch(source.sha256, source).parent
    for name, age in (("old.part", 2 * 86400), ("young.part", 60)):
        (folder / name).write_bytes(b"half")
        moment = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (moment, moment))

    cache.fetch(source.sha256, source)

    assert cached_files(tmp_path) == sorted([source.sha256, "young.part"])


FETCH = """
import sys, time
from pathlib import Path
from transfer_learning.store.cache import Cache

def download(path):
    with Path(sys.argv[3]).open("a") as file:
        file.write("x")
    time.sleep(0.3)
    path.write_bytes(b"weights")

print(Cache(Path(sys.argv[1])).fetch(sys.argv[2], download).read_bytes().decode())
"""


def test_of_two_processes_one_downloads_and_both_get_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FETCH, str(tmp_path / "cache"), sha256(b"weights"), str(tmp_path / "downloads")]

    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]

    assert outputs == ["weights\n"] * 2
    assert (tmp_path / "downloads").read_text() == "x"


@pytest.mark.promise(19)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, disk_of: Callable[[int], None]) -> None:
    cache, small, large = Cache(tmp_path), Source(b"small"), Source(b"x" * 100_000)
    cache.fetch(small.sha256, small)
    disk_of(50_000)

    with pytest.raises(BadInput, match=rf"^DISK_FULL {tmp_path}/.*/{large.sha256} does not fit on the disk — make room"):
        cache.fetch(large.sha256, large)

    assert cached_files(tmp_path) == [small.sha256]
