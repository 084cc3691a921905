"""Documents: every unclear answer is settled by reading back whose write stands there."""

from __future__ import annotations

import pytest

from learning.store.faults import ScriptedObjectStore
from transfer_learning.errors import BadInput, ObjectMissing, OutcomeUnknown
from transfer_learning.store import documents
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore

KEY = "models/news/versions/000001.json"
UNCLEAR = ["lost", "echo", "unsent", "conflict", "late"]


def other_writer(objects: ObjectStore) -> documents.Document:
    document, mine = documents.create(objects, KEY, {"version": "theirs"})
    assert mine
    return document


@pytest.mark.parametrize("fault", UNCLEAR)
def test_a_creation_with_an_unclear_answer_is_known_to_be_mine(objects: ObjectStore, fault: str) -> None:
    faulty = ScriptedObjectStore(objects, writes=[fault])

    document, mine = documents.create(faulty, KEY, {"version": "mine"})

    assert mine
    assert document == documents.read(objects, KEY)
    assert documents.plain(document) == {"version": "mine", "format": 1}


@pytest.mark.parametrize("fault", [None, "unsent", "conflict", "late"])
def test_a_creation_after_somebody_elses_is_known_not_to_be_mine(objects: ObjectStore, fault: str | None) -> None:
    theirs = other_writer(objects)

    document, mine = documents.create(ScriptedObjectStore(objects, writes=[fault]), KEY, {"version": "theirs"})

    assert not mine
    assert document == theirs == documents.read(objects, KEY)


@pytest.mark.parametrize("fault", UNCLEAR)
def test_a_replacement_with_an_unclear_answer_is_known_to_be_mine(objects: ObjectStore, fault: str) -> None:
    before = other_writer(objects)

    document, mine = documents.replace(ScriptedObjectStore(objects, writes=[fault]), KEY, {"version": "mine"}, before.etag)

    assert mine
    assert document == documents.read(objects, KEY)
    assert document.body["version"] == "mine"


@pytest.mark.parametrize("fault", [None, "unsent", "conflict", "late"])
def test_a_replacement_of_something_stale_is_known_not_to_be_mine(objects: ObjectStore, fault: str | None) -> None:
    before = other_writer(objects)
    theirs, _ = documents.replace(objects, KEY, {"version": "same"}, before.etag)

    document, mine = documents.replace(ScriptedObjectStore(objects, writes=[fault]), KEY, {"version": "same"}, before.etag)

    assert not mine
    assert document == theirs == documents.read(objects, KEY)


def test_several_unclear_answers_in_a_row_are_settled() -> None:
    objects = MemoryObjectStore()
    faulty = ScriptedObjectStore(objects, writes=["unsent", "late", "conflict", "lost"])

    document, mine = documents.create(faulty, KEY, {})

    assert mine
    assert document == documents.read(objects, KEY)


@pytest.mark.parametrize("fault", ["lost", "unsent"])
def test_what_cannot_be_read_back_is_unknown_and_nothing_is_deleted(fault: str) -> None:
    faulty = ScriptedObjectStore(MemoryObjectStore(), writes=[fault], reads=["down"])

    with pytest.raises(OutcomeUnknown, match="versions/000001.json was written is unknown"):
        documents.create(faulty, KEY, {})

    assert not [call for call in faulty.calls if call.startswith("delete")]


def test_a_store_that_never_lets_the_write_in_ends_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents.time, "sleep", lambda seconds: None)
    faulty = ScriptedObjectStore(MemoryObjectStore(), writes=["unsent"] * 100)

    with pytest.raises(OutcomeUnknown, match="10 attempts"):
        documents.create(faulty, KEY, {})


def test_replacing_what_was_deleted_says_so(objects: ObjectStore) -> None:
    before = other_writer(objects)
    objects.delete(KEY)

    with pytest.raises(ObjectMissing, match="was deleted"):
        documents.replace(objects, KEY, {}, before.etag)


def test_there_is_no_document_where_nothing_was_written(objects: ObjectStore) -> None:
    assert documents.read(objects, KEY) is None


def test_an_unknown_format_is_refused_with_one_line() -> None:
    objects = MemoryObjectStore()
    objects.put(KEY, b'{"format": 2}')

    with pytest.raises(BadInput, match=r"^UNKNOWN_FORMAT memory://store/models/news/versions/000001.json has format"):
        documents.read(objects, KEY)


@pytest.mark.parametrize("data", [b'{"format": 1', b"", b"{}", b"[]", b"null", b"[" * 100_000])
def test_what_is_no_document_is_refused_with_one_line(data: bytes) -> None:
    objects = MemoryObjectStore()
    objects.put(KEY, data)

    with pytest.raises(documents.Damaged, match=r"^DAMAGED_DOCUMENT memory://store/"):
        documents.read(objects, KEY)


def test_a_document_with_a_changed_byte_is_not_believed() -> None:
    objects = MemoryObjectStore()
    written, _ = documents.create(objects, KEY, {"version": 41, "rows": {10: 0.1, 9: [1e-17, None]}, "said": 'é " \\'})
    raw = objects.get(KEY).data

    for number in range(len(raw)):
        objects.put(KEY, raw[:number] + bytes([raw[number] ^ 1]) + raw[number + 1 :])
        with pytest.raises(documents.Damaged, match=r"^DAMAGED_DOCUMENT memory://store/"):
            documents.read(objects, KEY)
    objects.put(KEY, raw)

    assert documents.read(objects, KEY) == written


def test_a_document_in_the_place_of_another_is_not_believed() -> None:
    objects = MemoryObjectStore()
    documents.create(objects, KEY, {"version": 1})
    objects.put(KEY.replace("1", "2"), objects.get(KEY).data)

    with pytest.raises(documents.Damaged, match=r"^DAMAGED_DOCUMENT \S+000002.json is not as it was written there"):
        documents.read(objects, KEY.replace("1", "2"))


def test_a_document_of_an_earlier_release_has_no_hash_and_is_read() -> None:
    objects = MemoryObjectStore()
    objects.put(KEY, b'{"format": 1, "nonce": "theirs", "version": 41}')

    document = documents.read(objects, KEY)
    assert document is not None
    replaced, mine = documents.replace(objects, KEY, documents.plain(document), document.etag)

    assert (documents.plain(document), document.sealed) == ({"format": 1, "version": 41}, False)
    assert mine
    assert documents.read(objects, KEY) == replaced
    assert replaced.sealed


@pytest.mark.parametrize("more", [b'"loss": NaN', b'"loss": 1e999', b'"said": "\\ud800"'])
def test_what_is_json_to_python_alone_is_refused_with_one_line(more: bytes) -> None:
    objects = MemoryObjectStore()
    objects.put(KEY, b'{"format": 1, "sealed": true, "sha256": "0", ' + more + b"}")

    with pytest.raises(documents.Damaged, match=r"^DAMAGED_DOCUMENT memory://store/"):
        documents.read(objects, KEY)
