"""Snapshots: published once, shared by parts, verified when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from learning.store.faults import DyingObjectStore, FaultyObjectStore, Killed, ScriptedObjectStore
from transfer_learning.errors import BadInput
from transfer_learning.store import documents
from transfer_learning.store.cache import Cache
from transfer_learning.store.datasets import DatasetStore
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore

RULE = {"key": "content", "salt": "", "test": 0.2, "validation": 0.0}
DAY_1 = {"train": b"day 1", "test": b"golden", "unlabelled-train": b"waiting"}
DAY_2 = DAY_1 | {"train-2": b"day 2, more rows"}


def digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def pulled(folder: Path, parts: Mapping[str, bytes], known: Mapping[str, bytes] | None = None, name: str = "bbc") -> Path:
    """What the stage writes: a manifest of all parts, and the files of those that are not ``known``."""
    (folder / "parts").mkdir(parents=True)
    listed = []
    for place, data in parts.items():
        sha256 = hashlib.sha256(data).hexdigest()
        split = place.removeprefix("unlabelled-").partition("-")[0]
        labelled = not place.startswith("unlabelled-")
        listed.append({"sha256": sha256, "bytes": len(data), "rows": 1, "split": split, "labelled": labelled})
        if data not in (known or {}).values():
            (folder / "parts" / f"{sha256}.parquet").write_bytes(data)
    manifest = {
        "format": 1,
        "name": name,
        "digest": digest(sorted(parts.items())),
        "rows": len(parts),
        "rule": RULE,
        "parts": listed,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def publish(objects: ObjectStore, folder: Path, parts: Mapping[str, bytes], **options: Any) -> tuple[dict[str, Any], int]:
    return DatasetStore(objects).publish("bbc", pulled(folder, parts, **options))


def writes(objects: FaultyObjectStore) -> list[str]:
    return [call for call in objects.calls if call.split()[0] in ("put", "upload", "copy", "delete")]


def content(folder: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}": path.read_bytes() for path in folder.rglob("*.parquet")}


def test_a_snapshot_comes_back_as_it_was_published(objects: ObjectStore, tmp_path: Path) -> None:
    published, uploaded = publish(objects, tmp_path / "out", DAY_1)
    store = DatasetStore(objects)

    folder = store.fetch("bbc", published["digest"], destination=tmp_path / "snapshot")

    assert content(folder) == DAY_1
    assert json.loads((folder / "manifest.json").read_text()) == published == store.latest("bbc")
    assert published == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert uploaded == sum(map(len, DAY_1.values()))
    assert store.names() == ["bbc"]


def test_only_the_splits_that_are_asked_for_are_laid_down(objects: ObjectStore, tmp_path: Path) -> None:
    published, _ = publish(objects, tmp_path / "out", DAY_1)

    folder = DatasetStore(objects).fetch("bbc", published["digest"], destination=tmp_path / "snapshot", splits=("train",))

    assert content(folder) == {"train": b"day 1"}


def test_the_same_snapshot_again_writes_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    first, _ = publish(objects, tmp_path / "first", DAY_1)
    counted = FaultyObjectStore(objects)

    again, uploaded = publish(counted, tmp_path / "again", DAY_1, known=DAY_1)

    assert (again, uploaded) == (first, 0)
    assert writes(counted) == []


def test_a_new_snapshot_uploads_only_its_new_parts(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path / "first", DAY_1)
    counted = FaultyObjectStore(objects)

    second, uploaded = publish(counted, tmp_path / "second", DAY_2, known=DAY_1)

    assert uploaded == len(DAY_2["train-2"])
    assert [call for call in writes(counted) if call.startswith("upload")] == [
        f"upload datasets/bbc/parts/{hashlib.sha256(DAY_2['train-2']).hexdigest()}.parquet"
    ]
    assert DatasetStore(objects).latest("bbc") == second


def test_an_older_snapshot_becomes_the_latest_again_without_an_upload(objects: ObjectStore, tmp_path: Path) -> None:
    first, _ = publish(objects, tmp_path / "first", DAY_1)
    publish(objects, tmp_path / "second", DAY_2)

    _, uploaded = publish(objects, tmp_path / "third", DAY_1)

    assert uploaded == 0
    assert DatasetStore(objects).latest("bbc") == first


@pytest.mark.promise(13)
def test_a_publisher_killed_at_any_call_leaves_the_old_snapshot_or_the_new_one(tmp_path: Path) -> None:
    survived = False
    number = 0
    while not survived:
        number += 1
        for after in (False, True):
            objects = MemoryObjectStore()
            first, _ = publish(objects, tmp_path / f"{number}-{after}-1", DAY_1)
            try:
                publish(DyingObjectStore(objects, number, after=after), tmp_path / f"{number}-{after}-2", DAY_2)
                survived = True
            except Killed:
                pass
            latest = DatasetStore(objects).latest("bbc")
            assert latest is not None
            DatasetStore(objects).fetch("bbc", latest["digest"], destination=tmp_path / f"{number}-{after}-read")
            retried, _ = publish(objects, tmp_path / f"{number}-{after}-3", DAY_2)
            assert DatasetStore(objects).latest("bbc") == retried != first
    assert number > 5


def test_two_publishers_of_different_snapshots_both_finish(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    folders = [pulled(tmp_path / str(number), DAY_1 | {"train-2": str(number).encode()}) for number in range(8)]

    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda folder: DatasetStore(objects).publish("bbc", folder)[0], folders))

    assert DatasetStore(objects).latest("bbc") in published
    for manifest in published:
        assert DatasetStore(objects).manifest("bbc", manifest["digest"]) == manifest


@pytest.mark.parametrize("what", ["latest.json", f"snapshots/{digest(sorted(DAY_2.items()))}.json"])
@pytest.mark.parametrize("damage", [None, b"", f"datasets/bbc/snapshots/{digest(sorted(DAY_1.items()))}.json"])
def test_what_names_the_latest_snapshot_is_written_anew_when_it_is_gone_or_damaged(
    objects: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, damage: bytes | str | None
) -> None:
    first, _ = publish(objects, tmp_path / "first", DAY_1)
    second, _ = publish(objects, tmp_path / "second", DAY_2)
    key = f"datasets/bbc/{what}"
    if damage is None:
        objects.delete(key)
    else:
        objects.put(key, damage if isinstance(damage, bytes) else objects.get(damage).data)

    assert DatasetStore(objects).latest("bbc") is None
    assert ("SNAPSHOT LOST of dataset bbc" in caplog.text) == (what != "latest.json" or damage is not None)
    again, _ = publish(objects, tmp_path / "third", DAY_2)

    assert again == second == DatasetStore(objects).latest("bbc")
    assert DatasetStore(objects).manifest("bbc", first["digest"]) == first


def test_a_part_that_is_neither_in_the_folder_nor_in_the_store_is_refused(objects: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^BROKEN_SNAPSHOT .*\.parquet a part of the snapshot is missing, and this pull kept it"):
        publish(objects, tmp_path / "out", DAY_1, known={"test": b"golden"})

    assert DatasetStore(objects).latest("bbc") is None


def test_a_part_that_is_not_what_its_manifest_says_is_not_published(objects: ObjectStore, tmp_path: Path) -> None:
    folder = pulled(tmp_path / "out", DAY_1)
    part = folder / "parts" / f"{hashlib.sha256(b'golden').hexdigest()}.parquet"
    part.write_bytes(b"gilded")

    with pytest.raises(BadInput, match=rf"^HASH_MISMATCH {part} "):
        DatasetStore(objects).publish("bbc", folder)

    assert DatasetStore(objects).latest("bbc") is None


def test_the_manifest_of_another_dataset_is_refused(objects: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^WRONG_DATASET .*manifest.json is of dataset 'cnn', not 'bbc'"):
        DatasetStore(objects).publish("bbc", pulled(tmp_path / "out", DAY_1, name="cnn"))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("damage", [b"gilded", b"golde", b""])
def test_a_damaged_part_is_refused_with_one_line_and_nothing_is_laid_down(
    objects: ObjectStore, tmp_path: Path, damage: bytes, cached: bool
) -> None:
    published, _ = publish(objects, tmp_path / "out", DAY_1)
    key = f"datasets/bbc/parts/{hashlib.sha256(b'golden').hexdigest()}.parquet"
    objects.put(key, damage)
    cache = Cache(tmp_path / "cache") if cached else None

    with pytest.raises(
        BadInput, match=rf"^BROKEN_SNAPSHOT {objects.uri}/{key} a part of the snapshot is damaged: .* — restore it"
    ):
        DatasetStore(objects).fetch("bbc", published["digest"], destination=tmp_path / "read" / "snapshot", cache=cache)

    assert list((tmp_path / "read").iterdir()) == []


def test_a_missing_part_is_refused_with_one_line(objects: ObjectStore, tmp_path: Path) -> None:
    published, _ = publish(objects, tmp_path / "out", DAY_1)
    objects.delete(f"datasets/bbc/parts/{hashlib.sha256(b'golden').hexdigest()}.parquet")

    with pytest.raises(BadInput, match=r"^BROKEN_SNAPSHOT .* a part of the snapshot is missing — restore it"):
        DatasetStore(objects).fetch("bbc", published["digest"], destination=tmp_path / "snapshot")

    assert not (tmp_path / "snapshot").exists()


def test_what_the_cache_holds_is_not_downloaded_again(objects: ObjectStore, tmp_path: Path) -> None:
    published, _ = publish(objects, tmp_path / "out", DAY_1)
    counted, cache = FaultyObjectStore(objects), Cache(tmp_path / "cache")
    received: list[int] = []

    for number in range(2):
        destination = tmp_path / str(number)
        DatasetStore(counted).fetch("bbc", published["digest"], destination=destination, cache=cache, on_bytes=received.append)
        assert content(destination) == DAY_1

    assert len([call for call in counted.calls if call.startswith("download")]) == len(DAY_1)
    assert sum(received) == sum(map(len, DAY_1.values()))


def test_a_folder_that_holds_something_is_not_overwritten(objects: ObjectStore, tmp_path: Path) -> None:
    published, _ = publish(objects, tmp_path / "out", DAY_1)

    with pytest.raises(BadInput, match=rf"^FOLDER_NOT_EMPTY {tmp_path} "):
        DatasetStore(objects).fetch("bbc", published["digest"], destination=tmp_path)


def test_a_snapshot_that_does_not_exist_names_what_does(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path / "out", DAY_1)

    with pytest.raises(
        BadInput, match=r"^NO_SNAPSHOT .*dataset 'bcc' has no snapshot .* known datasets: bbc; did you mean 'bbc'\?"
    ):
        DatasetStore(objects).manifest("bcc", digest(0))


@pytest.mark.parametrize("name", ["../x", "BBC", "bb/c", "", "b..c", "ьбс"])
def test_a_name_that_is_no_name_reaches_no_key(name: str) -> None:
    counted = FaultyObjectStore(MemoryObjectStore())
    store = DatasetStore(counted)

    for use in (lambda: store.rule(name), lambda: store.fix_rule(name, RULE), lambda: store.latest(name)):
        with pytest.raises(BadInput, match="^BAD_NAME dataset name"):
            use()

    assert counted.calls == []


def test_a_manifest_whose_parts_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    for number, part in enumerate(({"sha256": "../../x", "split": "train"}, {"sha256": digest(0), "split": "../.."})):
        body = {"name": "bbc", "digest": digest(number), "parts": [part | {"bytes": 1, "labelled": True}]}
        documents.create(objects, f"datasets/bbc/snapshots/{digest(number)}.json", body)

        with pytest.raises(BadInput, match="^BAD_NAME"):
            DatasetStore(objects).fetch("bbc", digest(number), destination=tmp_path / "deep" / "snapshot")

    assert list((tmp_path / "deep").iterdir()) == []


def test_the_rule_is_fixed_by_whoever_comes_first(objects: ObjectStore) -> None:
    store = DatasetStore(objects)
    assert store.rule("bbc") is None

    assert store.fix_rule("bbc", RULE) == RULE
    assert store.fix_rule("bbc", RULE | {"salt": "other"}) == RULE
    assert store.rule("bbc") == RULE


def test_a_rule_of_an_earlier_release_gets_the_fields_it_lacks_and_keeps_its_history(objects: ObjectStore) -> None:
    store = DatasetStore(objects)
    store.fix_rule("bbc", {"salt": "old"})
    store.reset_rule("bbc", RULE, reason="a drill", actor="ada")

    assert store.fix_rule("bbc", RULE | {"texts": ["headline"]}) == RULE | {"texts": ["headline"]}
    assert store.fix_rule("bbc", RULE) == RULE | {"texts": ["headline"]}
    assert store.resets("bbc") == ["a drill"]


@pytest.mark.parametrize("fault", [None, "lost", "echo", "unsent"])
def test_a_reset_of_the_rule_is_recorded_once(fault: str | None) -> None:
    objects = MemoryObjectStore()
    changed = RULE | {"salt": "new"}
    DatasetStore(objects).fix_rule("bbc", RULE)

    for _ in range(2):  # a task and its retry
        store = DatasetStore(ScriptedObjectStore(objects, writes=[fault]))
        assert store.reset_rule("bbc", changed, reason="test set leaked", actor="ada") == changed

    document = documents.read(objects, "datasets/bbc/rule.json")
    assert document is not None
    [past] = document.body["history"]
    assert (past["rule"], past["reason"], past["actor"]) == (RULE, "test set leaked", "ada")
    assert DatasetStore(objects).rule("bbc") == changed


def test_a_reason_is_recorded_once_also_where_the_rule_stays(objects: ObjectStore) -> None:
    store = DatasetStore(objects)
    store.fix_rule("bbc", RULE)

    for _ in range(2):
        store.reset_rule("bbc", RULE, reason="ids are numbers now", actor="ada")

    assert store.resets("bbc") == ["ids are numbers now"]
    assert store.rule("bbc") == RULE


def test_two_resets_at_the_same_time_are_both_recorded() -> None:
    objects = MemoryObjectStore()
    store = DatasetStore(objects)
    store.fix_rule("bbc", RULE)

    class Overtaken(FaultyObjectStore):
        """Somebody else resets the rule just before the first write."""

        def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
            if not self.calls.count(f"put {key}"):
                store.reset_rule("bbc", RULE | {"salt": "first"}, reason="faster", actor="bob")
            return super().put(key, data, if_absent=if_absent, if_match=if_match)

    standing = DatasetStore(Overtaken(objects)).reset_rule("bbc", RULE | {"salt": "second"}, reason="slower", actor="ada")

    document = documents.read(objects, "datasets/bbc/rule.json")
    assert document is not None
    assert standing == document.body["rule"] == RULE | {"salt": "second"}
    assert [past["rule"]["salt"] for past in document.body["history"]] == ["", "first"]
