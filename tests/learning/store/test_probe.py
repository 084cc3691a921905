"""A store that cannot keep the promises is refused at first use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learning.store.faults import FaultyObjectStore, ScriptedObjectStore
from transfer_learning.errors import BadInput
from transfer_learning.store import Store, documents
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore


class Weak(FaultyObjectStore):
    """Ignores one of the two conditions, as some S3 servers do."""

    def __init__(self, ignored: str) -> None:
        super().__init__(MemoryObjectStore())
        self.ignored = ignored

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        if self.ignored == "If-None-Match":
            if_absent = False
        else:
            if_match = None
        return super().put(key, data, if_absent=if_absent, if_match=if_match)


def test_a_sound_store_passes_twice_and_holds_nothing_but_its_marker(objects: ObjectStore) -> None:
    Store(objects).check()
    Store(objects).check()

    assert [info.key for info in objects.list("")] == ["store.json"]
    document = documents.read(objects, "store.json")
    assert document is not None
    assert documents.plain(document) == {"layout": 1, "format": 1}


@pytest.mark.promise(15)
@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_that_ignores_a_precondition_is_refused(header: str) -> None:
    with pytest.raises(BadInput, match=rf"^WEAK_STORE memory://store ignores {header}: "):
        Store(Weak(header)).check()


def test_an_unknown_layout_is_refused_and_left_alone(objects: ObjectStore) -> None:
    documents.create(objects, "store.json", {"layout": 2})
    before = objects.get("store.json")

    with pytest.raises(BadInput, match=r"^UNKNOWN_LAYOUT .*/store\.json has layout 2, and this release knows 1"):
        Store(objects).check()

    assert objects.get("store.json") == before


@pytest.mark.parametrize("fault", ["lost", "echo", "unsent", "conflict"])
def test_an_unclear_answer_to_the_first_write_is_no_reason_to_refuse(fault: str) -> None:
    objects = MemoryObjectStore()

    Store(ScriptedObjectStore(objects, writes=[fault])).check()

    assert json.loads(objects.get("store.json").data)["layout"] == 1


@pytest.mark.parametrize("root", ["", "news", "/var/store", "file://relative", "http://bucket/x", "s3://", "s3:///x", "S3://b"])
def test_a_root_that_is_no_root_is_refused_with_one_line(root: str) -> None:
    with pytest.raises(BadInput, match=r"^BAD_ROOT the store's root is .* — write s3://bucket/prefix or file:///path$"):
        Store.open(root)


def test_a_local_root_may_hold_blanks_and_is_made_when_it_is_missing(tmp_path: Path) -> None:
    store = Store.open(f"file://{tmp_path}/my%20store/")
    assert not (tmp_path / "my store").exists()

    store.check()

    assert (tmp_path / "my store" / "store.json").exists()
    assert store.objects.uri == f"file://{tmp_path}/my%20store"


@pytest.mark.parametrize("prefix", ["../x", "a//b", "a/%2e%2e"])
def test_a_prefix_that_would_be_read_in_two_ways_is_refused(prefix: str) -> None:
    with pytest.raises(BadInput, match="BAD_NAME"):
        Store.open(f"s3://bucket/{prefix}")
