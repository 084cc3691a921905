from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from learning.store.faults import DyingObjectStore, FaultyObjectStore, Killed
from learning.store.test_checkpoints import checkpoint
from learning.store.test_evaluations import write_evaluation
from learning.store.tiny import digest, publish, write_ledger
from transfer_learning.errors import BadInput
from transfer_learning.store import Store, documents, layout
from transfer_learning.store.checkpoints import CheckpointStore
from transfer_learning.store.evaluations import EvaluationStore
from transfer_learning.store.garbage import QUIET, Finding, collect
from transfer_learning.store.lease import Lease
from transfer_learning.store.models import ModelStore
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore

NOTHING = timedelta(0)
DAY = timedelta(days=1)
TOMORROW = datetime.now(UTC) + DAY


def keys(objects: ObjectStore, prefix: str = "") -> set[str]:
    return {info.key for info in objects.list(prefix)}


def kinds(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.kind, finding.outcome) for finding in findings]


def die(objects: ObjectStore, folder: Path, call: str, seed: int = 1) -> None:
    """Publish, and be killed before the first call of that name."""
    watched = FaultyObjectStore(MemoryObjectStore())
    ledger = write_ledger(folder / f"{seed}.parquet", "row")
    publish(watched, folder, seed, ledger=ledger)
    number = next(i for i, made in enumerate(watched.calls, 1) if made.startswith(call))
    with pytest.raises(Killed):
        publish(DyingObjectStore(objects, number, after=False), folder, seed, ledger=ledger)


def test_files_of_a_publish_that_died_are_found_and_nothing_is_written_unless_asked(objects: ObjectStore, tmp_path: Path) -> None:
    die(objects, tmp_path, "put models/news/publishes")
    before = keys(objects)

    found = collect(objects, older_than=NOTHING)

    assert kinds(found) == [("artifact", "found"), ("ledger", "found")]
    assert found[0].key.startswith(f"models/news/artifacts/{digest('publish', 1)}-")
    assert (found[0].files, found[0].bytes, found[0].reason) == (4, 6254, "its publish never came to an end")
    assert keys(objects) == before


def test_what_a_dead_publish_left_goes_and_the_publish_can_still_be_made(objects: ObjectStore, tmp_path: Path) -> None:
    die(objects, tmp_path, "put models/news/publishes")

    found = collect(objects, older_than=NOTHING, delete=True)

    intent = layout.intent_key("news", digest("publish", 1))
    assert kinds(found) == [("artifact", "deleted"), ("ledger", "deleted")]
    assert keys(objects) == {intent}
    assert collect(objects, older_than=NOTHING, delete=True) == []
    ref, uploaded = publish(objects, tmp_path, 1, ledger=write_ledger(tmp_path / "1.parquet", "row"))
    assert (ref.version, uploaded > 0) == (1, True)
    ModelStore(objects).fetch("news", 1, tmp_path / "fetched")
    assert len(ModelStore(objects).fetch_ledger("news", 1, tmp_path / "ledgers")) == 1
    assert collect(objects, older_than=NOTHING, delete=True) == []


def test_a_publish_that_died_before_its_version_is_completed(objects: ObjectStore, tmp_path: Path) -> None:
    die(objects, tmp_path, "put models/news/versions")
    before = keys(objects)

    assert kinds(collect(objects, older_than=NOTHING)) == [("artifact", "found"), ("ledger", "found")]
    assert keys(objects) == before
    found = collect(objects, older_than=NOTHING, delete=True)

    assert kinds(found) == [("artifact", "completed"), ("ledger", "completed")]
    ModelStore(objects).fetch("news", 1, tmp_path / "fetched")
    again, uploaded = publish(objects, tmp_path, seed=1)
    assert (again.version, uploaded) == (1, 0)
    assert ModelStore(objects).find("news", digest("fingerprint", 1)) == again


def test_files_of_an_earlier_try_go_and_those_of_the_version_stay(objects: ObjectStore, tmp_path: Path) -> None:
    die(objects, tmp_path, "put models/news/publishes")
    publish(objects, tmp_path, 1, ledger=tmp_path / "1.parquet")
    kept = ModelStore(objects).manifest("news", 1)

    found = collect(objects, older_than=NOTHING, delete=True)

    assert kinds(found) == [("artifact", "deleted"), ("ledger", "deleted")]
    assert {finding.reason for finding in found} == {"left behind by a try of version 1"}
    assert not found[0].key.startswith(kept["artifact"])
    ModelStore(objects).fetch("news", 1, tmp_path / "fetched")
    assert kept["ledger"][0]["key"] in keys(objects)


def test_what_was_written_lately_is_left_alone(objects: ObjectStore, tmp_path: Path) -> None:
    die(objects, tmp_path, "put models/news/publishes")

    assert collect(objects, older_than=timedelta(minutes=5), delete=True) == []
    assert collect(objects, older_than=timedelta(hours=23), delete=True, now=TOMORROW) != []


def test_a_whole_store_in_use_has_no_garbage(objects: ObjectStore, tmp_path: Path) -> None:
    store = Store(objects)
    store.check()
    for seed in (1, 2):
        publish(objects, tmp_path, seed, ledger=write_ledger(tmp_path / f"{seed}.parquet", "row"))
    store.evaluations.write("news", 1, "night-1", write_evaluation(tmp_path / "evaluation"))
    store.aliases.promote("news", 1, promote_id="1", actor="ada", reason="", expected_generation=None, as_of=None)
    before = keys(objects)

    assert collect(objects, older_than=NOTHING, delete=True, now=TOMORROW) == []
    assert keys(objects) == before


def test_a_damaged_model_is_told_and_the_others_are_gone_through(objects: ObjectStore, tmp_path: Path) -> None:
    die(objects, tmp_path, "put models/news/publishes")
    for name in ("atlas", "zoo"):
        publish(objects, tmp_path, 1, name=name)
    objects.put(layout.version_key("atlas", 1), b"")
    problems: list[BadInput] = []

    with pytest.raises(BadInput, match="DAMAGED_DOCUMENT"):
        collect(objects, older_than=NOTHING)
    found = collect(objects, older_than=NOTHING, delete=True, problems=problems)

    assert [problem.code for problem in problems] == ["DAMAGED_DOCUMENT"]
    assert {finding.key.split("/")[1] for finding in found} == {"news"}
    assert any(key.startswith("models/atlas/artifacts/") for key in keys(objects))


def test_a_version_whose_intent_was_lost_keeps_its_files(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, 1, ledger=write_ledger(tmp_path / "1.parquet", "row"))
    objects.delete(layout.intent_key("news", digest("publish", 1)))

    assert collect(objects, older_than=NOTHING, delete=True) == []

    ModelStore(objects).fetch("news", 1, tmp_path / "fetched")


def test_what_is_not_ours_is_left_alone(objects: ObjectStore) -> None:
    strange = {"models/News of the World/artifacts/x-1/a", "models/news/artifacts/NOT AN ID-1/a", "checkpoints/f/a b", "other/a"}
    for key in strange:
        objects.put(key, b"")

    assert kinds(collect(objects, older_than=NOTHING, delete=True)) == [("checkpoints", "deleted")]
    assert keys(objects) == strange - {"checkpoints/f/a b"}


@pytest.mark.promise(13)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_collector_killed_at_any_call_harms_nobody(tmp_path: Path, after: bool) -> None:
    for call in range(1, 100):
        objects = MemoryObjectStore()
        die(objects, tmp_path, "put models/news/publishes", 1)
        die(objects, tmp_path, "put models/news/versions", 2)
        dying = DyingObjectStore(objects, call, after=after)
        with contextlib.suppress(Killed):
            collect(dying, older_than=NOTHING, delete=True)

        assert {publish(objects, tmp_path, seed)[0].version for seed in (1, 2)} == {1, 2}
        for version in (1, 2):
            ModelStore(objects).fetch("news", version, tmp_path / f"{call}-{version}")
        collect(objects, older_than=NOTHING, delete=True)
        assert collect(objects, older_than=NOTHING) == []
        if len(dying.calls) < call:
            return
    raise AssertionError("it never came to its end")


def test_evidence_without_a_verdict_goes_and_the_evaluation_can_still_be_written(objects: ObjectStore, tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "evaluation")
    prefix = "models/news/evaluations/000001/night-1/"
    objects.put(f"{prefix}predictions.parquet", b"PAR1")
    assert kinds(collect(objects, older_than=NOTHING)) == [("evaluation", "found")]

    found = collect(objects, older_than=NOTHING, delete=True)

    evaluations = EvaluationStore(objects)
    assert kinds(found) == [("evaluation", "deleted")]
    assert evaluations.read("news", 1) == []
    uris = [evaluations.write("news", 1, "night-1", folder) for _ in range(2)]
    assert uris == [f"{objects.uri}/models/news/evaluations/000001/night-1-2"] * 2
    assert [verdict["decision"] for verdict in evaluations.read("news", 1)] == ["passed"]
    assert evaluations.count_test_uses("news", "d") == 0
    assert collect(objects, older_than=NOTHING, delete=True) == []


def test_an_evaluation_that_loses_its_evidence_before_the_verdict_begins_again(tmp_path: Path) -> None:
    class Collected(FaultyObjectStore):
        def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
            if key.endswith("night-1/verdict.json"):
                collect(self._inner, older_than=NOTHING, delete=True)
            return super().put(key, data, if_absent=if_absent, if_match=if_match)

    objects = MemoryObjectStore()

    uri = EvaluationStore(Collected(objects)).write("news", 1, "night-1", write_evaluation(tmp_path / "out"))

    assert uri.endswith("night-1-2")
    assert f"{uri.removeprefix(objects.uri)[1:]}/predictions.parquet" in keys(objects)


def test_evidence_that_a_dead_collector_left_goes_the_next_time(objects: ObjectStore) -> None:
    prefix = "models/news/evaluations/000001/night-1/"
    documents.create(objects, f"{prefix}verdict.json", {"abandoned": True})
    objects.put(f"{prefix}plots/late.png", b"")

    assert kinds(collect(objects, older_than=NOTHING, delete=True)) == [("evaluation", "deleted")]
    assert keys(objects) == {f"{prefix}verdict.json"}


State = Callable[[ObjectStore, str], None]


def held(objects: ObjectStore, fingerprint: str) -> None:
    assert Lease(objects, fingerprint, owner="a").try_acquire() is None


def given_back(objects: ObjectStore, fingerprint: str) -> None:
    lease = Lease(objects, fingerprint, owner="a")
    lease.try_acquire()
    lease.release()


def never_leased(objects: ObjectStore, fingerprint: str) -> None:
    pass


@pytest.mark.parametrize(
    ("lease", "published", "age", "gone"),
    [
        (given_back, False, 2 * DAY, True),
        (never_leased, False, 2 * DAY, True),
        (held, False, 2 * DAY, True),
        (given_back, False, timedelta(hours=1), False),
        (given_back, True, NOTHING, True),
        (held, True, QUIET / 2, False),
        (held, True, QUIET * 2, True),
    ],
    ids=["old", "old and never leased", "old and silent", "waiting for a retry", "published", "running again", "silent"],
)
def test_checkpoints_go_when_nobody_needs_them(
    objects: ObjectStore, tmp_path: Path, lease: State, published: bool, age: timedelta, gone: bool
) -> None:
    publish(objects, tmp_path, 1)
    fingerprint = digest("fingerprint", 1) if published else "f00d"
    CheckpointStore(objects, fingerprint).upload(checkpoint(tmp_path, 3), "first")
    lease(objects, fingerprint)
    before = keys(objects)

    found = collect(objects, older_than=DAY, delete=True, now=datetime.now(UTC) + age)

    assert kinds(found) == [("checkpoints", "deleted")] * gone
    assert keys(objects) == ({key for key in before if not key.startswith("checkpoints/")} if gone else before)


def test_an_attempt_that_takes_the_lease_first_keeps_its_checkpoints(tmp_path: Path) -> None:
    class Overtaken(FaultyObjectStore):
        def get(self, key: str):  # type: ignore[no-untyped-def]
            seen = super().get(key)
            if key.endswith("lease.json") and "released" in seen.data.decode():
                Lease(self._inner, "f00d", owner="faster").try_acquire()
            return seen

    objects = MemoryObjectStore()
    CheckpointStore(objects, "f00d").upload(checkpoint(tmp_path, 3), "first")
    given_back(objects, "f00d")
    before = keys(objects)

    found = collect(Overtaken(objects), older_than=NOTHING, delete=True)

    assert kinds(found) == [("checkpoints", "kept")]
    assert keys(objects) == before


def test_nothing_is_garbage_to_a_manifest_that_names_other_files_than_it_did(objects: ObjectStore, tmp_path: Path) -> None:
    publish(objects, tmp_path, 1)
    place = layout.version_key("news", 1)
    artifact = ModelStore(objects).manifest("news", 1)["artifact"]
    objects.put(place, objects.get(place).data.replace(artifact[-8:].encode(), b"0" * 8))
    before = keys(objects)

    with pytest.raises(documents.Damaged, match=r"^DAMAGED_DOCUMENT .*versions/000001.json is not as it was written"):
        collect(objects, older_than=NOTHING, delete=True, now=TOMORROW)

    assert keys(objects) == before
