"""Promises 9, 10, 12 and 14 over the in-memory store: many writers, lost answers, alias moves in one line, readers."""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from learning.store.faults import FaultyObjectStore, ForgetfulObjectStore, ScriptedObjectStore
from learning.store.test_aliases import check_linear, climb, rollback, with_versions
from learning.store.tiny import digest, promote, publish
from promises import sizes
from transfer_learning.errors import BadInput, OutcomeUnknown, StoreError, StoreUnreachable
from transfer_learning.store import documents
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.models import ModelStore
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore
from transfer_learning.store.retention import prune

T = TypeVar("T")

Held = Callable[[str], None]
WRITERS = 16
WRITES = ("lost", "echo", "unsent", "conflict", "late", "down")
READS = ("lost", "down")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off that does not sleep: there are thousands of faults."""
    monkeypatch.setattr(documents.time, "sleep", lambda seconds: None)


def faults(chance: random.Random, share: float, kinds: tuple[str, ...]) -> Iterator[str | None]:
    while True:
        yield chance.choice(kinds) if chance.random() < share else None


def troubled(shared: ObjectStore, seed: int, *, writes: float, reads: float) -> ScriptedObjectStore:
    """The store as one client sees it, who meets this share of faults."""
    chance = random.Random(seed)
    return ScriptedObjectStore(shared, writes=faults(chance, writes, WRITES), reads=faults(chance, reads, READS))


def until_done(work: Callable[[], T]) -> T:
    """Try again as a task is tried again."""
    while True:
        try:
            return work()
        except StoreError as error:
            assert error.retryable


@pytest.mark.promise(9)
@pytest.mark.parametrize("count", sizes(40, 1000))
def test_every_publish_is_one_version_whatever_16_writers_meet(count: int, held: Held, tmp_path: Path) -> None:
    shared, chance = MemoryObjectStore(), random.Random(9)
    tasks = [seed for seed in range(count) for _ in range(chance.randint(2, 4))]
    chance.shuffle(tasks)

    def work(numbered: tuple[int, int]) -> tuple[int, int]:
        number, seed = numbered
        objects, force = troubled(shared, number, writes=0.1, reads=0.1), number % 2 == 0
        return seed, until_done(lambda: publish(objects, tmp_path / str(number), seed, force=force)[0].version)

    with ThreadPoolExecutor(WRITERS) as pool:
        given = list(pool.map(work, enumerate(tasks)))

    manifests = ModelStore(shared).versions("news")
    assert [manifest["version"] for manifest in manifests] == list(range(1, count + 1))
    assert sorted(manifest["publish_id"] for manifest in manifests) == sorted(digest("publish", seed) for seed in range(count))
    of = {manifest["publish_id"]: manifest["version"] for manifest in manifests}
    assert all(version == of[digest("publish", seed)] for seed, version in given)
    for manifest in manifests:
        ModelStore(shared).fetch("news", manifest["version"], tmp_path / f"fetched-{manifest['version']}")
    held(f"{count:,} publishes tried {len(tasks):,} times: {len(manifests):,} contiguous versions")


@pytest.mark.promise(10)
@pytest.mark.parametrize("count", sizes(100, 1000))
def test_every_lost_answer_is_settled_right(count: int, held: Held, tmp_path: Path) -> None:
    champion, publish_id = "models/news/aliases/champion", digest("publish", "b")
    dropped = collections.Counter[str]()
    for number in range(count):
        chance = random.Random(number)
        shared = MemoryObjectStore()
        publish(shared, tmp_path, "a")
        promote(AliasStore(shared), 1, promote_id="first")
        lost = chance.choice(
            [
                f"put models/news/publishes/{publish_id}.json",
                "put models/news/versions/000002.json",
                f"put models/news/fingerprints/{digest('fingerprint', 'b')}.json",
                f"put {champion}/history/1.json",
                f"put {champion}.json",
            ]
        )
        objects = ForgetfulObjectStore(shared, at=lost, seed=number)

        ref, _ = publish(objects, tmp_path, "b")
        move = promote(AliasStore(objects), 2, promote_id="second")

        dropped[lost] += objects.calls.count(lost) > 0
        assert (ref.version, move.moved, move.duplicate) == (2, True, "")
        assert [manifest["version"] for manifest in ModelStore(shared).versions("news")] == [1, 2]
        assert [alias.promote_id for alias in AliasStore(shared).history("news")] == ["first", "second"]
        assert ModelStore(shared).find("news", digest("fingerprint", "b")) == ref
    assert dropped.total() == count
    held(f"{count:,} of {count:,} lost answers settled right")


@pytest.mark.promise(10)
@pytest.mark.parametrize("count", sizes(20, 200))
def test_a_store_that_cannot_be_read_back_says_unknown_and_nothing_is_deleted(count: int, held: Held, tmp_path: Path) -> None:
    class Blind(FaultyObjectStore):
        """Loses the answer to one write, and answers nothing from then on."""

        def __init__(self, inner: ObjectStore, at: int) -> None:
            super().__init__(inner)
            self._at, self._blind = at, False

        def around(self, number: int, name: str, call: Callable[[], T], *, writes: bool, conditional: bool) -> T:
            if self._blind:
                raise (OutcomeUnknown if writes else StoreUnreachable)(name)
            result = call()
            if writes and number >= self._at:
                self._blind = True
                raise OutcomeUnknown(name)
            return result

    for seed in range(count):
        shared = MemoryObjectStore()
        publish(shared, tmp_path, "before")
        blind = Blind(shared, at=1 + seed % 24)
        with contextlib.suppress(OutcomeUnknown, StoreUnreachable):
            publish(blind, tmp_path, seed)
        assert not [call for call in blind.calls if call.startswith("delete")]
        assert publish(shared, tmp_path, seed)[0].version == 2
        assert [manifest["version"] for manifest in ModelStore(shared).versions("news")] == [1, 2]
    held(f"{count} times unreadable: nothing deleted")


@pytest.mark.promise(12)
@pytest.mark.parametrize("count", sizes(240, 10_000))
def test_alias_moves_of_16_clients_are_one_line_of_generations(count: int, held: Held) -> None:
    shared = MemoryObjectStore()
    with_versions(shared, 5)

    def work(worker: int) -> list[object]:
        return list(climb(troubled(shared, worker, writes=0.1, reads=0.05), worker, count // WRITERS))

    with ThreadPoolExecutor(WRITERS) as pool:
        moves = [move for found in pool.map(work, range(WRITERS)) for move in found]

    history = AliasStore(shared).history("news")
    check_linear(history, moves)  # type: ignore[arg-type]
    assert len(history) > count // 10
    held(f"{count:,} moves asked for by {WRITERS} clients, {len(history):,} made, one line of generations")


@pytest.mark.promise(14)
@pytest.mark.parametrize("count", sizes(30, 500))
def test_a_reader_never_sees_a_mix_while_the_champion_changes_and_old_versions_go(count: int, held: Held, tmp_path: Path) -> None:
    shared = MemoryObjectStore()
    publish(shared, tmp_path, 1)
    promote(AliasStore(shared), 1)
    ended = threading.Event()

    def read(reader: int) -> int:
        models, seen, number = ModelStore(shared), set[int](), 0
        while not ended.is_set():
            number += 1
            try:
                version = models.resolve("news", "champion")
                folder = models.fetch("news", version, tmp_path / f"reader-{reader}" / str(number))
            except BadInput as error:  # two promotions later: the version read about has been pruned
                assert error.code == "VERSION_PRUNED"
                continue
            head = (folder / "head" / "model.safetensors").read_bytes()
            assert head == (tmp_path / digest(version)[:8] / "head" / "model.safetensors").read_bytes()
            seen.add(version)
            shutil.rmtree(folder)
        return len(seen)

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, number) for number in range(4)]
        for version in range(2, count + 2):
            publish(shared, tmp_path, version)
            promote(AliasStore(shared), version)
            prune(shared, "news", keep=1, actor="cron", delete=True)
        ended.set()
        seen = [reader.result() for reader in readers]

    assert min(seen) > 1
    held(f"{count} promotions, 4 readers saw {min(seen)} to {max(seen)} versions, no mix")


@pytest.mark.promise(12)
@pytest.mark.parametrize("count", sizes(100, 1000))
def test_a_late_duplicate_never_undoes_a_rollback_wherever_its_answer_was_lost(count: int, held: Held) -> None:
    for number in range(count):
        chance = random.Random(number)
        shared = MemoryObjectStore()
        aliases = with_versions(shared, 3)
        promote(aliases, 1, promote_id="night 1")
        late = AliasStore(troubled(shared, number, writes=0.4, reads=0.2))
        options = {"promote_id": "night 2", "expected_generation": 1, "override_reason": chance.choice([None, "even so"])}
        until_done(lambda late=late, options=options: promote(late, 2, **options))  # type: ignore[misc]
        rollback(aliases)
        steps = itertools.count(2)
        for _ in range(chance.randint(0, 2)):
            promote(aliases, 3 if next(steps) % 2 == 0 else 1, override_reason="another day")
        before = AliasStore(shared).history("news")

        move = until_done(lambda late=late, options=options: promote(late, 2, **options))  # type: ignore[misc]

        assert (move.moved, move.duplicate) == (False, "late")
        assert AliasStore(shared).history("news") == before
    held(f"{count:,} late duplicates undid nothing")
