from __future__ import annotations

import dataclasses
import random
import re
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet
import pytest

from learning.store.faults import DyingObjectStore, FaultyObjectStore, ForgetfulObjectStore, Killed
from learning.store.test_evaluations import write_evaluation
from learning.store.tiny import digest, promote, publish, write_ledger, write_model
from promises import sizes
from transfer_learning.errors import BadInput, ObjectMissing, StoreError
from transfer_learning.store import documents, layout
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.cache import Cache
from transfer_learning.store.evaluations import EvaluationStore
from transfer_learning.store.garbage import collect
from transfer_learning.store.models import ModelStore
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore


def versions(objects: ObjectStore, name: str = "news") -> list[int]:
    return [manifest["version"] for manifest in ModelStore(objects).versions(name)]


def test_a_published_folder_comes_back_byte_for_byte(objects: ObjectStore, tmp_path: Path) -> None:
    facts = {"as_of": "2026-01-02T00:00:00+00:00", "dataset": {"name": "bbc", "rows": 80}}

    ref, uploaded = publish(objects, tmp_path, seed=1, facts=facts)
    folder = ModelStore(objects).fetch("news", 1, tmp_path / "fetched")

    sent = tmp_path / digest(1)[:8]
    assert {p.relative_to(sent): p.read_bytes() for p in sent.rglob("*") if p.is_file()} == {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    manifest = ModelStore(objects).manifest("news", 1)
    assert (ref.version, ref.as_of, manifest["facts"]) == (1, facts["as_of"], facts)
    assert uploaded == manifest["bytes_uploaded"] == sum(file["bytes"] for file in manifest["files"])
    assert ref.uri == f"{objects.uri}/{manifest['artifact']}"


def test_everything_lies_where_the_layout_says(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, seed=1, ledger=write_ledger(tmp_path / "ledger.parquet", "row"))
    manifest = ModelStore(objects).manifest("news", 1)
    artifact, nonce = manifest["artifact"], manifest["artifact"].rpartition("-")[2]
    publish_id, fingerprint = digest("publish", 1), digest("fingerprint", 1)

    assert artifact.startswith(f"models/news/artifacts/{publish_id}-")
    assert [info.key for info in objects.list("models/")] == sorted(
        [
            *(f"{artifact}/{name}" for name in ("config.json", "frozen.safetensors", "head/model.safetensors", "vocab.txt")),
            f"models/news/fingerprints/{fingerprint}.json",
            f"models/news/ledgers/{publish_id}-{nonce}.parquet",
            f"models/news/publishes/{publish_id}.json",
            "models/news/versions/000001.json",
        ]
    )


@pytest.mark.parametrize("force", [False, True])
def test_publishing_twice_makes_one_version(objects: ObjectStore, tmp_path: Path, force: bool) -> None:
    first, _ = publish(objects, tmp_path, seed=1, force=force)
    again, uploaded = publish(objects, tmp_path, seed=1, force=force)

    assert (again, uploaded, versions(objects)) == (first, 0, [1])


def test_the_same_training_in_another_run_is_the_same_version_unless_forced(objects: ObjectStore, tmp_path: Path) -> None:
    first, _ = publish(objects, tmp_path, seed=1)

    again, _ = publish(objects, tmp_path, seed=1, publish_id=digest("another run"))
    forced, _ = publish(objects, tmp_path, seed=1, publish_id=digest("a third run"), force=True)

    assert (first.version, again.version, forced.version) == (1, 1, 2)
    assert ModelStore(objects).find("news", digest("fingerprint", 1)) == forced


def test_files_that_the_newest_version_has_are_copied_and_not_uploaded(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, seed=1)
    watched = FaultyObjectStore(objects)

    _, uploaded = publish(watched, tmp_path, seed=2)

    files = {file["path"]: file["bytes"] for file in ModelStore(objects).manifest("news", 2)["files"]}
    assert uploaded == files["head/model.safetensors"] < files["frozen.safetensors"]
    assert [call.rpartition("/")[2] for call in watched.calls if call.startswith("upload")] == ["model.safetensors"]
    ModelStore(objects).fetch("news", 2, tmp_path / "fetched")


def test_files_of_an_older_parent_are_copied(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, seed=1)
    publish(objects, tmp_path, seed=2)

    _, uploaded = publish(objects, tmp_path, seed=1, parents=[1], publish_id=digest("again"), force=True)

    assert (uploaded, ModelStore(objects).manifest("news", 3)["parents"]) == (0, [1])


def test_a_parents_damaged_file_is_uploaded_instead_of_copied(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, seed=1)
    objects.put(f"{ModelStore(objects).manifest('news', 1)['artifact']}/frozen.safetensors", b"damaged")

    publish(objects, tmp_path, seed=2)

    ModelStore(objects).fetch("news", 2, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "frozen.safetensors").read_bytes() != b"damaged"


def test_publishers_at_the_same_time_get_contiguous_versions(new_objects: Callable[[], ObjectStore], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        refs = list(pool.map(lambda seed: publish(new_objects(), tmp_path, seed)[0], range(8)))

    assert sorted(ref.version for ref in refs) == versions(new_objects()) == list(range(1, 9))


def test_attempts_of_one_publish_at_the_same_time_make_one_version(
    new_objects: Callable[[], ObjectStore], tmp_path: Path
) -> None:
    barrier = threading.Barrier(4)

    def attempt(number: int) -> int:
        barrier.wait()
        return publish(new_objects(), tmp_path / str(number), seed=1)[0].version

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(attempt, range(4))) == [1, 1, 1, 1]
    assert versions(new_objects()) == [1]


def calls_of_a_publish(objects: ObjectStore, tmp_path: Path) -> range:
    """The numbers of the calls that a second publish makes; every seventh where a server makes each trial slow."""
    watched = FaultyObjectStore(objects)
    publish(objects, tmp_path, 1, "counted")
    publish(watched, tmp_path, 2, "counted", ledger=write_ledger(tmp_path / "counted.parquet", "row"))
    return range(1, len(watched.calls) + 1, 7 if objects.uri.startswith("s3://") else 1)


@pytest.mark.promise(13)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_publisher_killed_at_any_call_leaves_the_old_state_or_the_new_one(
    objects: ObjectStore, tmp_path: Path, after: bool
) -> None:
    ledger = write_ledger(tmp_path / "ledger.parquet", "row")
    for call in calls_of_a_publish(objects, tmp_path):
        name = f"news-{call}"
        publish(objects, tmp_path, 1, name)

        with pytest.raises(Killed):
            publish(DyingObjectStore(objects, call, after=after), tmp_path, 2, name, ledger=ledger)

        seen = versions(objects, name)
        assert seen in ([1], [1, 2]), call
        ModelStore(objects).fetch(name, seen[-1], tmp_path / "seen" / name)
        ref, _ = publish(objects, tmp_path, 2, name, ledger=ledger)
        assert (ref.version, versions(objects, name)) == (2, [1, 2]), call
        assert ModelStore(objects).find(name, ref.fingerprint) == ref
        ModelStore(objects).fetch(name, 2, tmp_path / "retried" / name)


@pytest.mark.parametrize("echo", [True, False], ids=["as a lost race", "as unknown"])
def test_a_lost_answer_at_any_call_never_makes_a_second_version(objects: ObjectStore, tmp_path: Path, echo: bool) -> None:
    settled = 0
    for call in calls_of_a_publish(objects, tmp_path):
        name = f"news-{call}"
        publish(objects, tmp_path, 1, name)
        forgetful = ForgetfulObjectStore(objects, at=call, echo=echo)

        try:
            ref, _ = publish(forgetful, tmp_path, 2, name)
            settled += 1
        except StoreError as error:
            assert error.retryable, call
            ref, _ = publish(objects, tmp_path, 2, name)

        assert (ref.version, versions(objects, name)) == (2, [1, 2]), call
    assert settled > 0


def test_a_lost_answer_to_any_write_is_settled_without_a_retry(tmp_path: Path) -> None:
    objects = MemoryObjectStore()

    for seed in range(40):
        publish(ForgetfulObjectStore(objects, share=0.3, seed=seed), tmp_path, seed)

    assert versions(objects) == list(range(1, 41))


def test_a_retry_never_writes_where_an_earlier_attempt_wrote(objects: ObjectStore, tmp_path: Path) -> None:
    watched = FaultyObjectStore(objects)
    publish(watched, tmp_path, 1, "counted")
    intent = next(i for i, call in enumerate(watched.calls, 1) if call.startswith("put models/counted/publishes/"))
    with pytest.raises(Killed):
        publish(DyingObjectStore(objects, intent, after=False), tmp_path, seed=1)
    earlier = {info.key for info in objects.list("models/news/artifacts/")}

    publish(objects, tmp_path, seed=1)

    artifact = ModelStore(objects).manifest("news", 1)["artifact"]
    assert earlier
    assert not any(key.startswith(f"{artifact}/") for key in earlier)


def test_an_intent_without_a_version_is_completed_without_uploading(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, seed=1)
    manifest = ModelStore(objects).manifest("news", 1)
    objects.delete("models/news/versions/000001.json")
    objects.delete(layout.fingerprint_key("news", manifest["fingerprint"]))

    ref, uploaded = publish(objects, tmp_path, seed=1)

    assert (ref.version, uploaded) == (1, 0)
    assert ModelStore(objects).manifest("news", 1)["artifact"] == manifest["artifact"]


def test_an_abandoned_intent_is_replaced(objects: ObjectStore, tmp_path: Path) -> None:
    documents.create(objects, layout.intent_key("news", digest("publish", 1)), {"abandoned": True})

    ref, _ = publish(objects, tmp_path, seed=1)

    assert (ref.version, versions(objects)) == (1, [1])
    ModelStore(objects).fetch("news", 1, tmp_path / "fetched")


def test_files_that_garbage_collection_took_just_before_the_intent_are_uploaded_anew(tmp_path: Path) -> None:
    class Collected(FaultyObjectStore):
        """The collector gives the publish up, and deletes its files, right before the intent is written."""

        def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
            if key == layout.intent_key("news", digest("publish", 1)) and if_absent:
                documents.create(self._inner, key, {"abandoned": True})
                for info in self._inner.list("models/news/artifacts/"):
                    self._inner.delete(info.key)
            return super().put(key, data, if_absent=if_absent, if_match=if_match)

    objects = MemoryObjectStore()

    ref, uploaded = publish(Collected(objects), tmp_path, seed=1)

    assert (ref.version, versions(objects)) == (1, [1])
    assert uploaded == 2 * ModelStore(objects).manifest("news", 1)["bytes_uploaded"]
    ModelStore(objects).fetch("news", 1, tmp_path / "fetched")


def prune(objects: ObjectStore, version: int) -> None:
    key = layout.version_key("news", version)
    document = documents.read(objects, key)
    assert document is not None
    documents.replace(objects, key, {**document.body, "pruned": {"at": "2026-01-01"}}, document.etag)


def test_a_pruned_version_is_no_hit_and_its_number_is_never_used_again(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, seed=1)
    prune(objects, 1)

    assert ModelStore(objects).find("news", digest("fingerprint", 1)) is None
    ref, _ = publish(objects, tmp_path, seed=1, publish_id=digest("another run"))

    assert (ref.version, versions(objects)) == (2, [2])
    assert ModelStore(objects).find("news", digest("fingerprint", 1)) == ref
    with pytest.raises(BadInput, match=r"^VERSION_PRUNED version 1 of model news was pruned — versions: 2$"):
        ModelStore(objects).manifest("news", 1)


def judge(objects: ObjectStore, version: int, folder: Path) -> None:
    EvaluationStore(objects).write("news", version, "night", write_evaluation(folder))


@pytest.mark.parametrize("named_by", ["alias", "verdict", "fingerprint"])
def test_the_number_of_a_version_whose_manifest_is_gone_is_never_used_again(
    objects: ObjectStore, tmp_path: Path, named_by: str
) -> None:
    publish(objects, tmp_path, seed=1)
    publish(objects, tmp_path, seed=2)
    lost = ModelStore(objects).manifest("news", 2)
    if named_by == "alias":
        promote(AliasStore(objects), 2)
    if named_by == "verdict":
        judge(objects, 2, tmp_path / "evaluation")
    if named_by != "fingerprint":
        objects.delete(layout.fingerprint_key("news", lost["fingerprint"]))
    objects.delete(layout.version_key("news", 2))

    ref, _ = publish(objects, tmp_path, seed=3)
    assert (ref.version, versions(objects)) == (3, [1, 3])

    collect(objects, older_than=timedelta(0), delete=True)
    assert ModelStore(objects).manifest("news", 2) == {**lost, "nonce": ModelStore(objects).manifest("news", 2)["nonce"]}


def test_publishing_reads_no_more_where_there_are_many_versions(tmp_path: Path) -> None:
    shared, reads = MemoryObjectStore(), list[int]()
    for seed in range(1, 13):
        watched = FaultyObjectStore(shared)
        publish(watched, tmp_path, seed)
        reads.append(sum(call.startswith("get ") for call in watched.calls))

    assert len(set(reads[2:])) == 1


def test_a_publish_whose_files_are_gone_makes_no_version(objects: ObjectStore, tmp_path: Path) -> None:
    first, _ = publish(objects, tmp_path, seed=1, ledger=write_ledger(tmp_path / "ledger.parquet", "row"))
    objects.delete(layout.version_key("news", 1))
    objects.delete(layout.fingerprint_key("news", first.fingerprint))
    for info in list(objects.list(layout.model_prefix("news") + "artifacts/")):
        objects.delete(info.key)

    with pytest.raises(BadInput, match=r"^FILES_GONE \S+ of this publish of news \S+ is gone — start a new run"):
        publish(objects, tmp_path, seed=1)
    found = collect(objects, older_than=timedelta(0), delete=True)

    assert [(finding.kind, finding.outcome, finding.reason) for finding in found] == [
        ("ledger", "found", "the files of its publish are gone")
    ]
    assert versions(objects) == []


def test_lost_manifests_come_back_under_their_numbers_whichever_is_written_again_first(
    objects: ObjectStore, tmp_path: Path
) -> None:
    declared = []
    for seed in (1, 2):  # both declare before either has a version
        dying = DyingObjectStore(objects, _call_before(tmp_path, seed, "put models/news/versions"), after=False)
        with pytest.raises(Killed):
            publish(dying, tmp_path, seed)
    for seed in (2, 1):
        declared.append(publish(objects, tmp_path, seed)[0])
    assert [ref.version for ref in declared] == [1, 2]
    for version in (1, 2):
        objects.delete(layout.version_key("news", version))

    for ref in reversed(declared):
        ModelStore(objects).complete("news", ref.publish_id)

    assert [manifest["publish_id"] for manifest in ModelStore(objects).versions("news")] == [ref.publish_id for ref in declared]


def _call_before(folder: Path, seed: int, call: str) -> int:
    watched = FaultyObjectStore(MemoryObjectStore())
    publish(watched, folder, seed)
    return next(number for number, made in enumerate(watched.calls, 1) if made.startswith(call))


@pytest.mark.parametrize("lost", ["alias", "alias damaged", "newest manifest damaged"])
def test_what_publishing_reads_is_checked_without_a_folder(objects: ObjectStore, tmp_path: Path, lost: str) -> None:
    publish(objects, tmp_path, seed=1)
    promote(AliasStore(objects), 1)
    ModelStore(objects).check("news")
    ModelStore(objects).check("sports")
    key = layout.version_key("news", 1) if lost.startswith("newest") else layout.alias_key("news", "champion")
    objects.delete(key) if lost == "alias" else objects.put(key, b"{}")

    with pytest.raises(BadInput, match=r"^(LOST_ALIAS|DAMAGED_DOCUMENT) "):
        ModelStore(objects).check("news")


def test_the_files_of_a_version_that_lost_manifest_and_intent_stay(objects: ObjectStore, tmp_path: Path) -> None:
    first, _ = publish(objects, tmp_path, seed=1)
    files = {info.key for info in objects.list("models/news/artifacts/")}
    objects.delete(layout.version_key("news", 1))
    objects.delete(layout.intent_key("news", first.publish_id))

    [found] = collect(objects, older_than=timedelta(0), delete=True)

    assert (found.outcome, found.reason[:47]) == ("found", "version 1 was published from it and has lost it")
    assert {info.key for info in objects.list("models/news/artifacts/")} == files


def test_a_ref_to_a_number_that_is_another_publish_is_refused(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    first, _ = publish(objects, tmp_path, seed=1)

    assert ModelStore(objects).require(first)["version"] == 1
    with pytest.raises(
        BadInput, match=r"^OTHER_VERSION version 1 of model news is not the one that was published as 000000000000"
    ):
        ModelStore(objects).require(dataclasses.replace(first, publish_id="0" * 64))


def test_an_alias_whose_version_is_gone_is_one_line_with_its_key(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    publish(objects, tmp_path, seed=1)
    promote(AliasStore(objects), 1)
    objects.delete(layout.version_key("news", 1))

    with pytest.raises(
        BadInput, match=r"^LOST_VERSION \S+/versions/000001.json version 1 of news was promoted, and its manifest"
    ):
        ModelStore(objects).resolve("news", "champion")


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"sealed": true}'])
def test_a_damaged_pointer_to_the_version_of_a_fingerprint_is_written_again(tmp_path: Path, damage: bytes) -> None:
    objects = MemoryObjectStore()
    first, _ = publish(objects, tmp_path, seed=1)
    key = layout.fingerprint_key("news", first.fingerprint)
    objects.put(key, damage)

    assert ModelStore(objects).find("news", first.fingerprint) == first
    pointer = documents.read(objects, key)
    assert pointer is not None
    assert pointer.body["version"] == 1

    objects.delete(layout.version_key("news", 1))
    objects.put(key, damage)
    again, _ = publish(objects, tmp_path, seed=1)
    assert (again, ModelStore(objects).find("news", first.fingerprint)) == (first, first)


def test_a_version_is_found_by_number_alias_and_latest(objects: ObjectStore, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        publish(objects, tmp_path, seed)
    promote(AliasStore(objects), 2)

    models = ModelStore(objects)
    assert [models.resolve("news", selector) for selector in ("1", "champion", "latest")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "selector", "line"),
    [
        ("news", "9", "NO_VERSION model news has no version 9 — versions: 1, 2"),
        ("news", "0", "NO_VERSION model news has no version 0 — versions: 1, 2"),
        (
            "news",
            "chmpion",
            "NO_ALIAS model news has no alias 'chmpion'; did you mean 'champion'? — aliases: champion; versions: 1, 2",
        ),
        ("newz", "1", "NO_VERSION model newz has no version 1 — models: news; did you mean 'news'?"),
        ("newz", "latest", "NO_VERSION model newz has no versions — models: news; did you mean 'news'?"),
    ],
)
def test_what_does_not_exist_is_one_line_that_names_what_does(tmp_path: Path, name: str, selector: str, line: str) -> None:
    objects = MemoryObjectStore()
    for seed in (1, 2):
        publish(objects, tmp_path, seed)
    promote(AliasStore(objects), 1)

    with pytest.raises(BadInput) as caught:
        ModelStore(objects).resolve(name, selector)

    assert str(caught.value) == line


@pytest.mark.parametrize("name", ["../news", "a/b", "", "News", "%2e%2e", "a..b", "a\n", "ｎews"])
def test_a_name_that_could_leave_the_root_is_refused(name: str, tmp_path: Path) -> None:
    objects = MemoryObjectStore()

    with pytest.raises(BadInput, match="BAD_NAME"):
        publish(objects, tmp_path, seed=1, name=name)

    assert not list(objects.list(""))


def test_figures_that_are_no_numbers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    objects = MemoryObjectStore()

    with pytest.raises(BadInput, match="BAD_FACTS"):
        publish(objects, tmp_path, seed=1, facts={"metrics": {"loss": float("nan")}})

    assert not list(objects.list(""))


@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
def test_a_flipped_bit_is_refused_with_the_files_name_and_nothing_appears(
    objects: ObjectStore, tmp_path: Path, cached: bool
) -> None:
    publish(objects, tmp_path, seed=1)
    key = f"{ModelStore(objects).manifest('news', 1)['artifact']}/head/model.safetensors"
    data = bytearray(objects.get(key).data)
    data[-1] ^= 1
    objects.put(key, bytes(data))
    cache = Cache(tmp_path / "cache") if cached else None

    with pytest.raises(BadInput, match=r"head/model\.safetensors"):
        ModelStore(objects).fetch("news", 1, tmp_path / "out" / "fetched", cache=cache)

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.promise(14)
@pytest.mark.parametrize("count", sizes(50, 1000))
def test_every_flipped_bit_of_any_file_is_refused(tmp_path: Path, count: int, held: Callable[[str], None]) -> None:
    objects, chance = MemoryObjectStore(), random.Random(14)
    publish(objects, tmp_path, seed=1)
    manifest = ModelStore(objects).manifest("news", 1)
    (tmp_path / "out").mkdir()
    for number in range(count):
        path = chance.choice(manifest["files"])["path"]
        key = f"{manifest['artifact']}/{path}"
        whole = objects.get(key).data
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        objects.put(key, bytes(data))

        with pytest.raises(BadInput, match=re.escape(path)):
            ModelStore(objects).fetch("news", 1, tmp_path / "out" / str(number))

        assert list((tmp_path / "out").iterdir()) == []
        objects.put(key, whole)
    held(f"{count:,} of {count:,} bit flips refused")


def test_a_second_fetch_with_a_cache_downloads_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, seed=1)
    cache, counted = Cache(tmp_path / "cache"), list[int]()
    ModelStore(objects).fetch("news", 1, tmp_path / "first", cache=cache, on_bytes=counted.append)
    downloaded = sum(counted)

    ModelStore(objects).fetch("news", 1, tmp_path / "second", cache=cache, on_bytes=counted.append)

    assert downloaded == sum(counted) == ModelStore(objects).manifest("news", 1)["bytes_uploaded"]
    assert (tmp_path / "second" / "vocab.txt").read_text() == (tmp_path / "first" / "vocab.txt").read_text()


def test_a_ledger_comes_with_those_of_everything_the_version_was_trained_from(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, 1, "base", ledger=write_ledger(tmp_path / "0.parquet", "base"))
    base = {"base": {"uri": "model://base@1", "digest": "0"}}
    publish(objects, tmp_path, 2, ledger=write_ledger(tmp_path / "1.parquet", "first"), facts=base)
    publish(objects, tmp_path, 3, ledger=write_ledger(tmp_path / "2.parquet", "second"), parents=[1])
    publish(objects, tmp_path, 4, parents=[2])
    prune(objects, 1)

    files = ModelStore(objects).fetch_ledger("news", 3, tmp_path / "ledgers")

    assert [path.name for path in files] == ["news-000002.parquet", "news-000001.parquet", "base-000001.parquet"]
    assert len({bytes(pyarrow.parquet.read_table(path)["row_key"][0].as_py()) for path in files}) == 3
    assert ModelStore(objects).fetch_ledger("news", 3, tmp_path / "own", own=True) == [
        tmp_path / "own" / path.name for path in files[:2]
    ]


OLD = [f"row {number}" for number in range(20)]


def rows_of_ledger(objects: ObjectStore, version: int, folder: Path) -> list[bytes]:
    [path, *_] = ModelStore(objects).fetch_ledger("news", version, folder)
    return sorted(pyarrow.parquet.read_table(path)["row_key"].to_pylist())


def test_a_second_version_uploads_the_rows_that_are_new_to_its_ledger(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, 1, ledger=write_ledger(tmp_path / "1.parquet", *OLD))
    _, uploaded = publish(objects, tmp_path, 2, ledger=(ledger := write_ledger(tmp_path / "2.parquet", *OLD, "new")))

    first, second = (ModelStore(objects).manifest("news", version)["ledger"] for version in (1, 2))
    added, named = second
    assert [named] == first
    assert uploaded == added["bytes"] + (tmp_path / digest(2)[:8] / "head" / "model.safetensors").stat().st_size
    assert added["bytes"] < named["bytes"]
    assert rows_of_ledger(objects, 2, tmp_path / "fetched") == sorted(pyarrow.parquet.read_table(ledger)["row_key"].to_pylist())


def test_a_version_of_the_same_rows_uploads_no_ledger(objects: ObjectStore, tmp_path: Path) -> None:
    ledger = write_ledger(tmp_path / "rows.parquet", *OLD)
    publish(objects, tmp_path, 1, ledger=ledger)
    watched = FaultyObjectStore(objects)

    publish(watched, tmp_path, 2, ledger=ledger)

    assert [call for call in watched.calls if call.startswith("upload") and "/ledgers/" in call] == []
    assert len(rows_of_ledger(objects, 2, tmp_path / "fetched")) == len(OLD)


def test_rows_that_went_leave_the_ledger(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, 1, ledger=write_ledger(tmp_path / "1.parquet", *OLD))
    publish(objects, tmp_path, 2, ledger=write_ledger(tmp_path / "2.parquet", *OLD[1:]))

    assert len(rows_of_ledger(objects, 2, tmp_path / "fetched")) == len(OLD) - 1


def test_the_ledger_of_a_pruned_version_stays_for_those_that_name_it(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, 1, ledger=write_ledger(tmp_path / "1.parquet", *OLD))
    publish(objects, tmp_path, 2, ledger=write_ledger(tmp_path / "2.parquet", *OLD, "new"))
    prune(objects, 1)

    collect(objects, older_than=timedelta(0), delete=True)

    assert len(rows_of_ledger(objects, 2, tmp_path / "fetched")) == len(OLD) + 1


def fewer_rows(objects: ObjectStore, key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        objects.upload(key, write_ledger(Path(folder) / "fewer.parquet", *OLD[1:]))


@pytest.mark.parametrize(
    "damage",
    [lambda objects, key: objects.put(key, b"PAR1"), fewer_rows, lambda objects, key: objects.delete(key)],
    ids=["cut off", "fewer rows", "gone"],
)
def test_a_part_that_is_damaged_or_gone_is_not_named_again_and_one_line_where_it_is_needed(
    objects: ObjectStore, tmp_path: Path, damage: Callable[[ObjectStore, str], None]
) -> None:
    publish(objects, tmp_path, 1, ledger=write_ledger(tmp_path / "1.parquet", *OLD))
    damaged = ModelStore(objects).manifest("news", 1)["ledger"][0]["key"]
    damage(objects, damaged)

    publish(objects, tmp_path, 2, ledger=write_ledger(tmp_path / "2.parquet", *OLD, "new"), parents=[1])

    assert [part["key"] == damaged for part in ModelStore(objects).manifest("news", 2)["ledger"]] == [False]
    with pytest.raises((BadInput, ObjectMissing)) as caught:
        rows_of_ledger(objects, 2, tmp_path / "fetched")
    assert "\n" not in str(caught.value)


def test_the_part_that_many_ledgers_name_is_downloaded_once(objects: ObjectStore, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        ledger = write_ledger(tmp_path / f"{seed}.parquet", *OLD, *(f"new {night}" for night in range(1, seed)))
        publish(objects, tmp_path, seed, ledger=ledger, parents=[seed - 1] if seed > 1 else [])
    watched = FaultyObjectStore(objects)

    files = ModelStore(watched).fetch_ledger("news", 3, tmp_path / "fetched")

    assert [len(pyarrow.parquet.read_table(path)) for path in files] == [len(OLD) + 2, len(OLD) + 1, len(OLD)]
    downloads = [call for call in watched.calls if call.startswith("download")]
    assert len(downloads) == len(set(downloads)) == 3


def test_a_ledger_that_an_earlier_release_wrote_is_read_and_sent_anew(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, 1, ledger=(ledger := write_ledger(tmp_path / "1.parquet", *OLD)))
    standing = documents.read(objects, layout.version_key("news", 1))
    assert standing is not None
    objects.upload(f"models/news/ledgers/{digest('publish', 1)}.parquet", ledger)
    old_form = {**standing.body, "ledger": f"models/news/ledgers/{digest('publish', 1)}.parquet"}
    documents.replace(objects, layout.version_key("news", 1), old_form, standing.etag)

    publish(objects, tmp_path, 2, ledger=write_ledger(tmp_path / "2.parquet", *OLD, "new"))
    collect(objects, older_than=timedelta(0), delete=True)

    assert [len(rows_of_ledger(objects, version, tmp_path / str(version))) for version in (1, 2)] == [len(OLD), len(OLD) + 1]
    assert ["sha256" in part for part in ModelStore(objects).manifest("news", 2)["ledger"]] == [True]


def test_a_parent_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="NO_VERSION model news has no version 7"):
        publish(MemoryObjectStore(), tmp_path, seed=1, parents=[7])


def test_progress_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer_learning.store.artifacts.LOG_SECONDS", 0.0)
    lines: list[str] = []

    ModelStore(MemoryObjectStore()).publish(
        name="news", folder=write_model(tmp_path / "m"), publish_id="p", fingerprint="f", facts={}, log=lines.append
    )

    assert lines[0].startswith("Storing: ")
    assert lines[-1].startswith("Stored 4 files, 6.3 kB: 6.3 kB uploaded")
