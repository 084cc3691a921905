from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from learning.store.faults import DyingObjectStore, FaultyObjectStore, Killed
from learning.store.tiny import digest, promote, publish, write_ledger, write_model
from transfer_learning.errors import BadInput, Refused
from transfer_learning.store import documents, layout, manifests
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.models import ModelStore
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore, OnBytes
from transfer_learning.store.retention import Pruned, prune


def fill(objects: ObjectStore, folder: Path, count: int, champions: Sequence[int] = ()) -> AliasStore:
    for seed in range(1, count + 1):
        publish(objects, folder, seed, ledger=write_ledger(folder / f"{seed}.parquet", str(seed)))
    aliases = AliasStore(objects)
    for version in champions:
        promote(aliases, version)
    return aliases


def pruned(objects: ObjectStore, *, keep: int = 1, delete: bool = True, name: str = "news") -> list[int]:
    return [item.version for item in prune(objects, name, keep=keep, actor="ada", delete=delete) if item.outcome != "kept"]


def live(objects: ObjectStore) -> list[int]:
    return [manifest["version"] for manifest in ModelStore(objects).versions("news")]


def test_old_versions_are_found_and_nothing_is_written_unless_asked(objects: ObjectStore, tmp_path: Path) -> None:
    fill(objects, tmp_path, 3)
    before = {info.key: info.modified for info in objects.list("")}

    found = prune(objects, "news", keep=1, actor="ada")

    created = [ModelStore(objects).manifest("news", version)["created"] for version in (1, 2)]
    assert found == [Pruned(version=v, files=4, bytes=6254, created=at) for v, at in zip((1, 2), created, strict=True)]
    assert {info.key: info.modified for info in objects.list("")} == before


@pytest.mark.parametrize("name", ["news", "sports"])
def test_nothing_is_pruned_while_a_version_has_lost_its_manifest(objects: ObjectStore, tmp_path: Path, name: str) -> None:
    fill(objects, tmp_path, 3)
    for seed in (1, 2):  # the second goes on from version 1 of news, maybe: only its manifest would say
        publish(objects, tmp_path, seed, name="sports")
    objects.delete(layout.version_key(name, 2))
    before = {info.key for info in objects.list("")}

    with pytest.raises(
        BadInput, match=rf"^LOST_VERSION \S+/{name}/versions/000002.json version 2 of {name} was published, and its"
    ):
        pruned(objects)

    assert {info.key for info in objects.list("")} == before


def test_a_pruned_version_leaves_a_tombstone_with_its_facts_ledger_and_parents(objects: ObjectStore, tmp_path: Path) -> None:
    fill(objects, tmp_path, 3)
    before = ModelStore(objects).manifest("news", 1)

    assert pruned(objects) == [1, 2]

    tombstone = manifests.read(objects, "news", 1)
    assert tombstone is not None
    assert tombstone.pop("pruned")["actor"] == "ada"
    assert {**tombstone, "nonce": ""} == {**before, "nonce": ""}
    assert not list(objects.list(before["artifact"]))
    assert [objects.exists(part["key"]) for part in before["ledger"]] == [True]
    assert live(objects) == [3]
    assert ModelStore(objects).find("news", digest("fingerprint", 1)) is None
    assert publish(objects, tmp_path, 1, publish_id=digest("another run"))[0].version == 4
    with pytest.raises(BadInput, match="VERSION_PRUNED"):
        publish(objects, tmp_path, 2)


def test_pruning_twice_is_pruning_once(objects: ObjectStore, tmp_path: Path) -> None:
    fill(objects, tmp_path, 3, champions=[3])
    pruned(objects)
    before = {info.key: info.modified for info in objects.list("")}

    assert pruned(objects) == []
    assert {info.key: info.modified for info in objects.list("")} == before


def test_the_newest_the_aliased_and_two_ways_back_stay(objects: ObjectStore, tmp_path: Path) -> None:
    aliases = fill(objects, tmp_path, 9, champions=[1, 2, 3, 4, 5])
    promote(aliases, 6, alias="canary")

    assert pruned(objects, keep=2) == [1, 2, 7]
    assert live(objects) == [3, 4, 5, 6, 8, 9]
    went = [aliases.rollback("news", promote_id=str(step), actor="a", reason="").alias.version for step in range(2)]
    assert went == [4, 3]


def test_what_was_rolled_back_from_is_no_way_back(objects: ObjectStore, tmp_path: Path) -> None:
    aliases = fill(objects, tmp_path, 5, champions=[1, 2, 3])
    aliases.rollback("news", promote_id="back", actor="a", reason="")
    promote(aliases, 4)

    assert pruned(objects) == [3]


def test_what_a_kept_version_was_trained_from_stays(objects: ObjectStore, tmp_path: Path) -> None:
    fill(objects, tmp_path, 4)
    publish(objects, tmp_path, 5, parents=[2])
    publish(objects, tmp_path, 1, "other", facts={"base": {"uri": "model://news@3", "digest": "0"}})

    assert pruned(objects) == [1, 4]
    assert live(objects) == [2, 3, 5]


def adapters(objects: ObjectStore, folder: Path, seed: int, base: int, name: str = "news") -> None:
    """Publish adapters alone, trained on a version of the model."""
    model = write_model(folder / f"adapters-{seed}", seed)
    (model / "config.json").rename(model / "adapter_config.json")
    ModelStore(objects).publish(
        name=name,
        folder=model,
        publish_id=digest("publish", seed),
        fingerprint=digest("fingerprint", seed),
        facts={"base": {"uri": f"model://news@{base}", "digest": "0"}},
        parents=[base] if name == "news" else [],
    )


def test_what_kept_adapters_belong_to_stays_however_far_down(objects: ObjectStore, tmp_path: Path) -> None:
    fill(objects, tmp_path, 3)
    for seed, base in ((4, 2), (5, 4), (6, 5)):
        adapters(objects, tmp_path, seed, base)

    assert pruned(objects) == [1, 3]
    assert live(objects) == [2, 4, 5, 6]


def test_what_a_merged_version_was_trained_from_stays_with_its_own_base_alone_if_it_is_adapters(
    objects: ObjectStore, tmp_path: Path
) -> None:
    fill(objects, tmp_path, 2)
    adapters(objects, tmp_path, 3, base=1)
    publish(objects, tmp_path, 4, parents=[3])
    publish(objects, tmp_path, 5, parents=[4])
    publish(objects, tmp_path, 6, parents=[5])

    assert pruned(objects, keep=3) == [2]
    assert pruned(objects) == [1, 3, 4]


def test_what_another_models_adapters_belong_to_stays(objects: ObjectStore, tmp_path: Path) -> None:
    fill(objects, tmp_path, 2)
    adapters(objects, tmp_path, 3, base=1)
    adapters(objects, tmp_path, 4, base=3, name="other")
    publish(objects, tmp_path, 5)

    assert pruned(objects) == [2]


@pytest.mark.parametrize(
    ("name", "keep", "line"),
    [("news", 0, "BAD_KEEP 0 newest versions"), ("newz", 1, "NO_VERSION model newz has no versions — models: news")],
)
def test_what_cannot_be_pruned_is_one_line(tmp_path: Path, name: str, keep: int, line: str) -> None:
    objects = MemoryObjectStore()
    fill(objects, tmp_path, 1)

    with pytest.raises(BadInput, match=f"^{line}"):
        prune(objects, name, keep=keep, actor="ada")


@pytest.mark.promise(13)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_pruner_killed_at_any_call_leaves_whole_versions_and_the_next_one_goes_on(tmp_path: Path, after: bool) -> None:
    for call in range(1, 200):
        objects = MemoryObjectStore()
        fill(objects, tmp_path, 4, champions=[3])
        dying = DyingObjectStore(objects, call, after=after)
        with contextlib.suppress(Killed):
            prune(dying, "news", keep=1, actor="ada", delete=True)

        for version in live(objects):
            ModelStore(objects).fetch("news", version, tmp_path / f"{call}-{version}")
        pruned(objects)
        assert live(objects) == [3, 4]
        assert len(list(objects.list("models/news/artifacts/"))) == 2 * 4
        assert pruned(objects) == []
        if len(dying.calls) < call:
            return
    raise AssertionError("it never came to its end")


class Meanwhile(FaultyObjectStore):
    """Somebody promotes version 1 right before the pruner's call of this name."""

    before = ""
    done = False

    def around(self, number, name, call, **options):  # type: ignore[no-untyped-def]
        if name == self.before and not self.done:
            self.done = True
            promote(AliasStore(self._inner), 1)
        return call()


@pytest.mark.parametrize("alias_exists", [True, False])
def test_a_version_that_is_promoted_just_before_it_is_marked_stays(tmp_path: Path, alias_exists: bool) -> None:
    objects = MemoryObjectStore()
    fill(objects, tmp_path, 3, champions=[3] * alias_exists)
    watched = Meanwhile(objects)
    watched.before = "put models/news/versions/000001.json"

    found = prune(watched, "news", keep=1, actor="ada", delete=True)

    assert [(item.version, item.outcome) for item in found] == [(1, "kept"), (2, "deleted")]
    assert (live(objects), "pruning" in ModelStore(objects).manifest("news", 1)) == ([1, 3], False)
    ModelStore(objects).fetch("news", 1, tmp_path / "fetched")


@pytest.mark.parametrize("alias_exists", [True, False])
def test_a_version_that_is_marked_cannot_be_promoted_or_rolled_back_to(tmp_path: Path, alias_exists: bool) -> None:
    objects = MemoryObjectStore()
    aliases = fill(objects, tmp_path, 3, champions=[1, 3] * alias_exists)
    key = layout.version_key("news", 1)
    document = documents.read(objects, key)
    assert document is not None
    documents.replace(objects, key, {**document.body, "pruning": {}}, document.etag)

    with pytest.raises(Refused, match="VERSION_PRUNED version 1 of model news is being pruned"):
        promote(aliases, 1, override_reason="please")
    if alias_exists:
        with pytest.raises(BadInput, match="NOTHING_BEFORE"):
            aliases.rollback("news", promote_id="back", actor="a", reason="")


def test_a_reader_whose_version_is_pruned_meanwhile_is_told_so_and_has_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    class PrunedMeanwhile(FaultyObjectStore):
        def download(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
            if key.endswith("vocab.txt"):
                pruned(self._inner)
            super().download(key, path, on_bytes)

    fill(objects, tmp_path, 2)

    with pytest.raises(BadInput, match=r"^VERSION_PRUNED version 1 of model news was pruned — versions: 2$"):
        ModelStore(PrunedMeanwhile(objects)).fetch("news", 1, tmp_path / "out" / "fetched")

    assert list((tmp_path / "out").iterdir()) == []


def test_a_mark_that_a_dead_pruner_left_goes_where_the_version_is_needed(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    aliases = fill(objects, tmp_path, 3, champions=[3])
    with pytest.raises(Killed):
        prune(dying_after(objects, "put models/news/versions/000001.json"), "news", keep=1, actor="ada", delete=True)
    assert "pruning" in ModelStore(objects).manifest("news", 1)

    assert pruned(objects, keep=3) == []

    assert "pruning" not in ModelStore(objects).manifest("news", 1)
    assert promote(aliases, 1).moved


def dying_after(objects: ObjectStore, call: str) -> ObjectStore:
    """Dies after the first call of this name."""

    class Dying(FaultyObjectStore):
        def around(self, number, name, made, **options):  # type: ignore[no-untyped-def]
            result = made()
            if name == call:
                raise Killed(name)
            return result

    return Dying(objects)


def test_a_fence_changes_nothing_that_can_be_seen(objects: ObjectStore, tmp_path: Path) -> None:
    aliases = fill(objects, tmp_path, 2, champions=[1, 2])
    before = aliases.history("news")

    aliases.fence("news")
    aliases.fence("news")

    assert AliasStore(objects).history("news") == before
    assert promote(aliases, 1, override_reason="x").alias.generation == 3
    assert AliasStore(objects).history("news")[:2] == before


def test_a_move_that_looked_before_the_fence_looks_again(tmp_path: Path) -> None:
    class Fenced(FaultyObjectStore):
        fences = 0

        def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
            if if_match is not None and key.endswith("champion.json") and not self.fences:
                self.fences += 1
                pruned(self._inner)
            return super().put(key, data, if_absent=if_absent, if_match=if_match)

    objects = MemoryObjectStore()
    fill(objects, tmp_path, 3, champions=[3])

    with pytest.raises(Refused, match="VERSION_PRUNED"):
        promote(AliasStore(Fenced(objects)), 1)

    assert [alias.version for alias in AliasStore(objects).history("news")] == [3]
