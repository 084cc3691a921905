"""Features: parts are found by the inputs they hold, damage is named once and healed, a set names what an extraction needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learning.store.faults import DyingObjectStore, FaultyObjectStore, Killed
from transfer_learning.errors import BadInput, ObjectMissing, StoreUnreachable
from transfer_learning.feature_files import read_hashes
from transfer_learning.hashes import Hashes
from transfer_learning.store import documents, layout
from transfer_learning.store.cache import Cache
from transfer_learning.store.features import FeatureStore
from transfer_learning.store.garbage import collect
from transfer_learning.store.object_store import MemoryObjectStore, ObjectInfo, ObjectStore, Stored

KEY = hashlib.sha256(b"base and settings").hexdigest()
SET = hashlib.sha256(b"one extraction").hexdigest()


def digest(row: int) -> bytes:
    return hashlib.sha256(str(row).encode()).digest()


def hashes(rows: Iterable[int]) -> Hashes:
    return np.unique(np.array([digest(row) for row in rows], dtype="S32"))


def write_part(folder: Path, rows: Iterable[int], precision: str = "fp32", value: float = 1.0) -> Path:
    """What the stage writes: a part named by its content, rows in no order."""
    keys = [digest(row) for row in rows]
    features = pa.FixedSizeListArray.from_arrays(pa.array(np.full(2 * len(keys), value, dtype=np.float32)), 2)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"input_hash": pa.array(keys, pa.binary(32)), "features": features}), folder / "new")
    sha256 = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    return (folder / "new").rename(folder / f"part-{precision}-{sha256}.parquet")


def manifest(*parts: Path, **more: Any) -> dict[str, Any]:
    listed = [{"name": part.name, "bytes": part.stat().st_size, "rows": pq.read_metadata(part).num_rows} for part in parts]
    return {"cache": KEY, "precision": "fp32", "width": 2, "rows": 1, "parts": listed} | more


def part_key(part: Path) -> str:
    return f"features/cache/{KEY}/{part.name}"


def index_key(part: Path) -> str:
    return part_key(part).replace("part-", "index-").removesuffix(".parquet")


def writes(objects: FaultyObjectStore) -> list[str]:
    return [call for call in objects.calls if call.split()[0] in ("put", "upload", "delete")]


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Path]:
    return lambda *rows, **options: write_part(tmp_path / "new_cache", rows, **options)


def test_parts_are_found_by_the_inputs_they_hold(objects: ObjectStore, tmp_path: Path, part: Callable[..., Path]) -> None:
    store, parts = FeatureStore(objects), [part(1, 2, 3), part(4, 5), part(6)]
    for path in parts:
        store.put_part(KEY, path)

    staged = store.stage(KEY, hashes([3, 6, 99]), tmp_path / "cache")

    assert sorted(staged) == sorted(path.name for path in (parts[0], parts[2]))
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == {
        path.name: path.read_bytes() for path in (parts[0], parts[2])
    }


def test_nothing_is_staged_for_another_key_or_for_no_rows(
    objects: ObjectStore, tmp_path: Path, part: Callable[..., Path]
) -> None:
    store = FeatureStore(objects)
    store.put_part(KEY, part(1))

    assert store.stage("0" * 64, hashes([1]), tmp_path / "other") == []
    assert store.stage(KEY, hashes([]), tmp_path / "none") == []
    assert list((tmp_path / "other").iterdir()) == []


def test_a_part_goes_up_once_and_before_its_index(objects: ObjectStore, part: Callable[..., Path]) -> None:
    counted, path = FaultyObjectStore(objects), part(2, 1)

    uploaded = [FeatureStore(counted).put_part(KEY, path) for _ in range(2)]

    assert writes(counted) == [f"upload {part_key(path)}", f"put {index_key(path)}"]
    assert uploaded == [path.stat().st_size + 64, 0]
    assert objects.get(index_key(path)).data == hashes([1, 2]).tobytes()


def test_what_a_part_looks_at_does_not_grow_with_the_parts_that_are_there(part: Callable[..., Path]) -> None:
    class Counting(FaultyObjectStore):
        """Counts the objects that are listed."""

        listed = 0

        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            for info in super().list(prefix):
                self.listed += 1
                yield info

    counted = Counting(MemoryObjectStore())
    store, parts = FeatureStore(counted), [part(row) for row in range(20)]

    for path in parts:
        store.put_part(KEY, path)
    first, counted.listed = counted.listed, 0
    again = [store.put_part(KEY, path) for path in parts]

    assert (first, again) == (0, [0] * 20)
    assert counted.listed == 20


def test_an_uploader_killed_at_any_call_leaves_nothing_or_a_whole_part(tmp_path: Path, part: Callable[..., Path]) -> None:
    path, survived, number = part(1, 2), False, 0
    while not survived:
        number += 1
        for after in (False, True):
            objects = MemoryObjectStore()
            try:
                FeatureStore(DyingObjectStore(objects, number, after=after)).put_part(KEY, path)
                survived = True
            except Killed:
                pass
            place = tmp_path / f"{number}-{after}"
            assert FeatureStore(objects).stage(KEY, hashes([1]), place / "before") in ([], [path.name])
            FeatureStore(objects).put_part(KEY, path)
            assert FeatureStore(objects).stage(KEY, hashes([1]), place / "after") == [path.name]
    assert number > 2


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing"])
def test_a_damaged_part_is_named_once_left_out_and_healed(
    objects: ObjectStore, tmp_path: Path, part: Callable[..., Path], caplog: pytest.LogCaptureFixture, damage: str, cached: bool
) -> None:
    store, good, bad = FeatureStore(objects), part(1, 2), part(3)
    cache = Cache(tmp_path / "files") if cached else None
    for path in (good, bad):
        store.put_part(KEY, path)
    spoil(objects, part_key(bad), damage)

    first = store.stage(KEY, hashes([1, 3]), tmp_path / "first", cache)
    again = FeatureStore(objects).stage(KEY, hashes([1, 3]), tmp_path / "again", cache)
    store.put_part(KEY, bad)
    healed = store.stage(KEY, hashes([1, 3]), tmp_path / "healed", cache)

    assert first == again == [good.name]
    assert [path.name for path in (tmp_path / "first").iterdir()] == [good.name]
    [line] = caplog.messages
    assert line.startswith(f"FEATURES DAMAGED {objects.uri}/{part_key(bad)} it is ")
    assert sorted(healed) == sorted([good.name, bad.name])


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_what_the_store_has_lost_is_healed_from_the_cache_of_this_machine(
    objects: ObjectStore, tmp_path: Path, part: Callable[..., Path], damage: str
) -> None:
    store, path, cache = FeatureStore(objects), part(1), Cache(tmp_path / "files")
    store.put_part(KEY, path)
    store.stage(KEY, hashes([1]), tmp_path / "before", cache)
    spoil(objects, part_key(path), damage)

    staged = store.stage(KEY, hashes([1]), tmp_path / "cache", cache)

    assert staged == [path.name]
    assert objects.get(part_key(path)).data == path.read_bytes()


@pytest.mark.parametrize("damage", ["shuffled", "cut", "empty"])
def test_a_damaged_index_is_named_once_and_its_part_is_left_out(
    objects: ObjectStore, tmp_path: Path, part: Callable[..., Path], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store, good, bad = FeatureStore(objects), part(1), part(2, 3)
    for path in (good, bad):
        store.put_part(KEY, path)
    spoil(objects, index_key(bad), damage)

    staged = [FeatureStore(objects).stage(KEY, hashes([1, 2]), tmp_path / str(number)) for number in range(2)]
    store.put_part(KEY, bad)

    assert staged == [[good.name]] * 2
    [line] = caplog.messages
    assert line == f"FEATURES DAMAGED {objects.uri}/{part_key(bad)} its index is damaged: its rows are computed again"
    assert len(store.stage(KEY, hashes([1, 2]), tmp_path / "healed")) == 2


def test_an_index_that_names_other_rows_is_named_and_written_again_when_its_part_comes_back(
    objects: ObjectStore, tmp_path: Path, part: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    store, path = FeatureStore(objects), part(1, 2)
    store.put_part(KEY, path)
    objects.put(index_key(path), hashes([3, 4]).tobytes())

    missed = store.stage(KEY, hashes([1]), tmp_path / "missed")
    uploaded = store.put_part(KEY, path)

    assert (missed, uploaded) == ([], path.stat().st_size + 64)
    assert store.stage(KEY, hashes([1]), tmp_path / "healed") == [path.name]
    assert caplog.messages == [
        f"FEATURES DAMAGED {objects.uri}/{index_key(path)} names other rows than its part holds: written again"
    ]


def test_bytes_that_change_once_on_their_way_harm_nothing(tmp_path: Path, part: Callable[..., Path]) -> None:
    class Noisy(MemoryObjectStore):
        """Spoils the first download and the first index that is read."""

        def __init__(self) -> None:
            super().__init__()
            self.quiet: set[str] = set()

        def get(self, key: str) -> Stored:
            stored = super().get(key)
            return stored if self.second(key) else Stored(stored.data[:-1], stored.etag)

        def download(self, key: str, path: Path, on_bytes: Any = None) -> None:
            super().download(key, path, on_bytes)
            if not self.second(key):
                path.write_bytes(b"noise")

        def second(self, key: str) -> bool:
            seen = key in self.quiet
            self.quiet.add(key)
            return seen

    objects, path = Noisy(), part(1)
    store = FeatureStore(objects)
    store.put_part(KEY, path)
    objects.quiet.clear()

    assert store.stage(KEY, hashes([1]), tmp_path / "cache") == [path.name]
    assert (tmp_path / "cache" / path.name).read_bytes() == path.read_bytes()


def test_a_download_that_broke_off_leaves_nothing_that_the_next_one_would_take(tmp_path: Path, part: Callable[..., Path]) -> None:
    class Breaking(MemoryObjectStore):
        """Ends the first download half way."""

        whole = False

        def download(self, key: str, path: Path, on_bytes: Any = None) -> None:
            super().download(key, path, on_bytes)
            if not self.whole:
                self.whole = True
                path.write_bytes(path.read_bytes()[:100])
                raise StoreUnreachable("reset by peer")

    objects, path = Breaking(), part(1)
    store = FeatureStore(objects)
    store.put_part(KEY, path)
    store.publish(SET, manifest(path))
    with pytest.raises(StoreUnreachable):
        store.fetch(SET, destination=tmp_path / "features")

    folder = store.fetch(SET, destination=tmp_path / "features")

    assert {found.name: found.read_bytes() for found in folder.iterdir()} == {path.name: path.read_bytes()}


def test_what_the_cache_holds_is_not_downloaded_again(objects: ObjectStore, tmp_path: Path, part: Callable[..., Path]) -> None:
    counted, cache, path = FaultyObjectStore(objects), Cache(tmp_path / "files"), part(1)
    store = FeatureStore(counted)
    store.put_part(KEY, path)
    store.publish(SET, manifest(path))

    store.stage(KEY, hashes([1]), tmp_path / "cache", cache)
    store.fetch(SET, destination=tmp_path / "set", cache=cache)

    assert [call for call in counted.calls if call.startswith("download")] == [f"download {part_key(path)}"]


def test_a_part_that_is_not_what_its_name_says_is_not_uploaded(objects: ObjectStore, part: Callable[..., Path]) -> None:
    path = part(1)
    path.write_bytes(part(2).read_bytes())

    with pytest.raises(BadInput, match=rf"^HASH_MISMATCH {path} "):
        FeatureStore(objects).put_part(KEY, path)

    assert list(objects.list("")) == []


def test_a_set_comes_back_as_it_was_published(objects: ObjectStore, tmp_path: Path, part: Callable[..., Path]) -> None:
    store, parts = FeatureStore(objects), [part(1), part(2)]
    for path in parts:
        store.put_part(KEY, path)

    published = store.publish(SET, manifest(*parts, dataset={"name": "news"}))
    folder = store.fetch(SET, destination=tmp_path / "features")

    assert store.find(SET) == store.manifest(SET) == published
    assert published["dataset"] == {"name": "news"}
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in parts)


def test_two_sets_with_a_part_in_common_lie_in_one_folder(
    objects: ObjectStore, tmp_path: Path, part: Callable[..., Path]
) -> None:
    store, parts, other = FeatureStore(objects), [part(1), part(2), part(3)], hashlib.sha256(b"another").hexdigest()
    for path in parts:
        store.put_part(KEY, path)
    store.publish(SET, manifest(*parts[:2]))
    store.publish(other, manifest(*parts[1:]))

    for name in (SET, other):
        folder = store.fetch(name, destination=tmp_path / "features", cache=Cache(tmp_path / "files"))

    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in parts)


def test_two_publishers_of_one_set_agree(objects: ObjectStore, part: Callable[..., Path]) -> None:
    store, paths = FeatureStore(objects), [part(1, value=float(number)) for number in range(4)]
    for path in paths:
        store.put_part(KEY, path)

    with ThreadPoolExecutor(4) as pool:
        stand = list(pool.map(lambda path: FeatureStore(objects).publish(SET, manifest(path)), paths))

    assert all(one == stand[0] == store.manifest(SET) for one in stand)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_set_with_a_damaged_part_is_one_line_and_the_next_extraction_replaces_it(
    objects: ObjectStore, tmp_path: Path, part: Callable[..., Path], damage: str
) -> None:
    store, bad, again = FeatureStore(objects), part(1, value=1.0), part(1, value=2.0)
    store.put_part(KEY, bad)
    store.publish(SET, manifest(bad))
    spoil(objects, part_key(bad), damage)

    with pytest.raises(BadInput, match=rf"^BROKEN_FEATURES {objects.uri}/{part_key(bad)} it is .* — run the extraction again"):
        store.fetch(SET, destination=tmp_path / "broken")
    found = store.find(SET)
    store.put_part(KEY, again)
    replaced = store.publish(SET, manifest(again))

    assert found is None
    assert list((tmp_path / "broken").iterdir()) == []
    assert replaced == store.find(SET)
    assert [entry["name"] for entry in replaced["parts"]] == [again.name]
    assert (store.fetch(SET, destination=tmp_path / "whole") / again.name).read_bytes() == again.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_set_that_lost_a_part_is_not_found(objects: ObjectStore, part: Callable[..., Path], damage: str) -> None:
    store, parts = FeatureStore(objects), [part(1), part(2)]
    for path in parts:
        store.put_part(KEY, path)
    store.publish(SET, manifest(*parts))
    spoil(objects, part_key(parts[1]), damage)

    assert store.find(SET) is None


@pytest.mark.parametrize("damage", ["cut", "missing", "without index"])
def test_a_part_that_was_lost_before_its_set_is_named_comes_back_from_this_machine(
    objects: ObjectStore, tmp_path: Path, part: Callable[..., Path], damage: str
) -> None:
    store, parts = FeatureStore(objects), [part(1), part(2)]
    for path in parts:
        store.put_part(KEY, path)
    place, how = (index_key(parts[1]), "missing") if damage == "without index" else (part_key(parts[1]), damage)
    spoil(objects, place, how)

    store.publish(SET, manifest(*parts), [tmp_path / "elsewhere", parts[1].parent])

    assert store.find(SET) is not None
    assert sorted(path.name for path in store.fetch(SET, destination=tmp_path / "set").iterdir()) == sorted(
        path.name for path in parts
    )


def test_a_set_is_not_named_without_its_parts(objects: ObjectStore, tmp_path: Path, part: Callable[..., Path]) -> None:
    store, parts = FeatureStore(objects), [part(1), part(2)]
    store.put_part(KEY, parts[0])

    with pytest.raises(ObjectMissing, match=f"^{parts[1].name} is gone from the store .* a retry computes its rows again$"):
        store.publish(SET, manifest(*parts), [tmp_path / "elsewhere"])

    assert store.find(SET) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_a_damaged_manifest_is_no_set_and_the_next_extraction_replaces_it(
    objects: ObjectStore, part: Callable[..., Path], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store, path, place = FeatureStore(objects), part(1), layout.feature_set_key(SET)
    store.put_part(KEY, path)
    published = store.publish(SET, manifest(path))
    spoil(objects, place, damage)

    found = store.find(SET)
    with pytest.raises(BadInput, match="^NO_FEATURES .* run the extraction again$"):
        store.manifest(SET)
    replaced = store.publish(SET, manifest(path))

    assert found is None
    assert replaced == published == store.find(SET)
    assert [line for line in caplog.messages if place in line] == caplog.messages
    assert bool(caplog.messages) == (damage != "missing")


def test_a_changed_byte_of_a_manifest_is_no_other_set(part: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    objects, path, place = MemoryObjectStore(), part(1), layout.feature_set_key(SET)
    store = FeatureStore(objects)
    store.put_part(KEY, path)
    published = store.publish(SET, manifest(path, spec={"pooling": "mean"}))
    raw = objects.get(place).data

    for number in range(len(raw)):
        objects.put(place, raw[:number] + bytes([raw[number] ^ 1]) + raw[number + 1 :])
        assert store.find(SET) is None, raw[number:]
        assert store.publish(SET, published) == published == store.find(SET)

    assert [line for line in caplog.messages if "FEATURES DAMAGED" in line and place in line] == caplog.messages
    assert len(caplog.messages) == len(raw)


def test_a_set_that_does_not_exist_is_one_line(objects: ObjectStore, tmp_path: Path) -> None:
    assert FeatureStore(objects).find(SET) is None
    with pytest.raises(
        BadInput, match=rf"^NO_FEATURES {objects.uri} there are no features {SET[:12]} .* run the extraction again"
    ):
        FeatureStore(objects).fetch(SET, destination=tmp_path / "features")


@pytest.mark.parametrize(
    "name",
    ["../x", "part-fp32-../../x.parquet", f"part-fp16-{SET}.parquet", f"part-fp32-{SET}", f"part-fp32-{SET}.parquet\n", ""],
)
def test_a_set_whose_parts_would_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    objects = MemoryObjectStore()
    documents.create(objects, layout.feature_set_key(SET), {"cache": KEY, "parts": [{"name": name, "bytes": 1}]})

    with pytest.raises(BadInput, match="^BAD_NAME"):
        FeatureStore(objects).fetch(SET, destination=tmp_path / "deep" / "features")

    assert list((tmp_path / "deep" / "features").iterdir()) == []


@pytest.mark.parametrize("key", ["../x", "KEY", "", "0" * 63, f"{SET}/..", f"{SET}\n"])
def test_a_key_that_is_no_hash_reaches_no_object(tmp_path: Path, part: Callable[..., Path], key: str) -> None:
    counted, path = FaultyObjectStore(MemoryObjectStore()), part(1)
    store = FeatureStore(counted)

    uses = (
        lambda: store.stage(key, hashes([1]), tmp_path / "cache"),
        lambda: store.put_part(key, path),
        lambda: store.find(key),
        lambda: store.manifest(key),
        lambda: store.publish(key, manifest(path)),
        lambda: store.fetch(key, destination=tmp_path / "set"),
    )
    for use in uses:
        with pytest.raises(BadInput, match="^BAD_NAME"):
            use()

    assert counted.calls == []


def test_garbage_collection_never_deletes_features(objects: ObjectStore, part: Callable[..., Path]) -> None:
    store, path = FeatureStore(objects), part(1)
    store.put_part(KEY, path)
    store.publish(SET, manifest(path))
    before = [info.key for info in objects.list("")]

    collect(objects, older_than=timedelta(0), delete=True, now=datetime.now(UTC) + timedelta(days=999))

    assert [info.key for info in objects.list("")] == before
    assert len(before) == 3


def test_hashes_are_read_from_every_row_group(tmp_path: Path) -> None:
    keys = [digest(row) for row in range(7)]
    pq.write_table(pa.table({"_input_hash": pa.array(keys, pa.binary(32))}), tmp_path / "part.parquet", row_group_size=2)

    assert read_hashes(tmp_path / "part.parquet", "_input_hash").tolist() == keys


def spoil(objects: ObjectStore, key: str, damage: str) -> None:
    """Damage one object as disks and people do."""
    data = objects.get(key).data
    if damage == "missing":
        objects.delete(key)
    elif damage == "shuffled":
        objects.put(key, data[32:] + data[:32])
    elif damage == "flipped":
        objects.put(key, bytes([data[0] ^ 0xFF]) + data[1:])
    else:
        objects.put(key, data[:-1] if damage == "cut" else b"")
