"""The three object stores keep the same promises."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from transfer_learning.errors import BadInput, ObjectMissing, PreconditionFailed
from transfer_learning.store.object_store import ObjectStore

LEAVING = ["../x", "a/../x", "/a", "a//b", "a/", "", ".", "a\\b", "%2e%2e/x", "a#b", "a?b", "a\0b", "a\nb", "a/./b"]


def test_what_was_written_is_read_with_the_etag_that_was_returned(objects: ObjectStore) -> None:
    etag = objects.put("models/news/a.json", b"first")

    stored = objects.get("models/news/a.json")

    assert (stored.data, stored.etag) == (b"first", etag)
    assert objects.exists("models/news/a.json")


def test_a_missing_object_is_missing_however_it_is_asked_for(objects: ObjectStore, tmp_path: Path) -> None:
    for ask in (
        lambda: objects.get("nothing.json"),
        lambda: objects.download("nothing.json", tmp_path / "target"),
        lambda: objects.copy("nothing.json", "copy.json"),
    ):
        with pytest.raises(ObjectMissing, match="nothing.json"):
            ask()

    assert not objects.exists("nothing.json")
    assert not list(objects.list(""))
    assert not (tmp_path / "target").exists()


def test_only_the_first_write_is_let_in_where_none_may_stand(objects: ObjectStore) -> None:
    objects.put("a.json", b"first", if_absent=True)

    with pytest.raises(PreconditionFailed):
        objects.put("a.json", b"second", if_absent=True)

    assert objects.get("a.json").data == b"first"


def test_a_write_over_a_stale_etag_is_refused(objects: ObjectStore) -> None:
    stale = objects.put("a.json", b"first")
    current = objects.put("a.json", b"second", if_match=stale)

    with pytest.raises(PreconditionFailed):
        objects.put("a.json", b"third", if_match=stale)

    assert (objects.get("a.json").data, objects.get("a.json").etag) == (b"second", current)


def test_a_write_over_an_etag_of_a_missing_object_is_refused(objects: ObjectStore) -> None:
    with pytest.raises(PreconditionFailed):
        objects.put("a.json", b"first", if_match='"00000000000000000000000000000000"')

    assert not objects.exists("a.json")


def test_of_several_clients_that_create_one_object_one_wins(new_objects: Callable[[], ObjectStore]) -> None:
    def create(number: int) -> bool:
        try:
            new_objects().put("versions/000001.json", str(number).encode(), if_absent=True)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        winners = [number for number, won in enumerate(pool.map(create, range(4))) if won]

    assert [new_objects().get("versions/000001.json").data.decode()] == [str(number) for number in winners]


def test_no_update_is_lost_when_several_clients_count_by_compare_and_swap(new_objects: Callable[[], ObjectStore]) -> None:
    new_objects().put("count", b"0")

    def add(_: int) -> None:
        objects = new_objects()
        while True:
            stored = objects.get("count")
            try:
                objects.put("count", str(int(stored.data) + 1).encode(), if_match=stored.etag)
                return
            except PreconditionFailed:
                continue

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, range(9)))

    assert new_objects().get("count").data == b"9"


def test_keys_are_listed_in_order_with_their_sizes(objects: ObjectStore) -> None:
    for key in ("a/b.json", "a-b.json", "a.json", "ab.json", "b.json", "a/b/c.json"):
        objects.put(key, key.encode())

    listed = [(info.key, info.size) for info in objects.list("a")]

    assert listed == [(key, len(key)) for key in ("a-b.json", "a.json", "a/b.json", "a/b/c.json", "ab.json")]
    assert [info.key for info in objects.list("a/")] == ["a/b.json", "a/b/c.json"]
    assert all(info.modified.tzinfo is not None for info in objects.list(""))


def test_a_large_file_goes_up_and_comes_down_unchanged_and_every_byte_is_counted(objects: ObjectStore, tmp_path: Path) -> None:
    size = 33 * 1024 * 1024 + 5  # three parts
    (tmp_path / "sent").write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    up: list[int] = []
    down: list[int] = []

    objects.upload("weights/model.safetensors", tmp_path / "sent", up.append)
    objects.copy("weights/model.safetensors", "weights/copy.safetensors")
    objects.download("weights/copy.safetensors", tmp_path / "received", down.append)

    assert (tmp_path / "received").read_bytes() == (tmp_path / "sent").read_bytes()
    assert (sum(up), sum(down)) == (size, size)


def test_an_upload_replaces_what_is_there(objects: ObjectStore, tmp_path: Path) -> None:
    objects.put("a", b"old")
    (tmp_path / "new").write_bytes(b"new")

    objects.upload("a", tmp_path / "new")

    assert objects.get("a").data == b"new"


def test_deleting_twice_is_deleting_once(objects: ObjectStore) -> None:
    objects.put("a", b"")

    objects.delete("a")
    objects.delete("a")

    assert not objects.exists("a")


@pytest.mark.parametrize("key", LEAVING)
def test_no_key_leaves_the_root(objects: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    objects.put("kept", b"")

    for use in (
        lambda: objects.put(key, b"x"),
        lambda: objects.upload(key, tmp_path / "file"),
        lambda: objects.copy("kept", key),
        lambda: objects.get(key),
        lambda: objects.download(key, tmp_path / "target"),
        lambda: objects.delete(key),
    ):
        with pytest.raises(BadInput, match="BAD_NAME"):
            use()

    assert [info.key for info in objects.list("")] == ["kept"]
