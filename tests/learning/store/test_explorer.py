"""Every interleaving that was drawn keeps the rules, and each part of the protocols is missed when it is taken away."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from learning.store.explorer import Violation, World, explore, world
from promises import sizes
from transfer_learning.settings import canonical_json
from transfer_learning.store import documents, garbage, layout, manifests
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.documents import Document
from transfer_learning.store.models import ModelStore
from transfer_learning.store.moves import Alias
from transfer_learning.store.object_store import ObjectStore

POWER = 2_000
"""A part of the protocols that is taken away must be missed within so many schedules."""


@pytest.fixture(scope="module")
def start() -> Iterator[World]:
    with world() as built:
        yield built


def test_the_schedule_that_is_asked_for_keeps_the_rules(start: World, request: pytest.FixtureRequest) -> None:
    assert explore(request.config.getoption("--explorer-seed") or 0, start) > 0


def test_a_seed_is_the_same_schedule_every_time(start: World) -> None:
    assert [explore(seed, start) for seed in range(20)] == [explore(seed, start) for seed in range(20)]


@pytest.mark.promise(11)
@pytest.mark.parametrize("count", sizes(750, 100_000))
def test_every_schedule_keeps_the_rules(count: int, held: Callable[[str], None]) -> None:
    workers, started = os.cpu_count() or 1, time.monotonic()
    chunks = [range(first, count, workers) for first in range(workers)]

    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        steps = sum(pool.map(explore_all, chunks))

    seconds = time.monotonic() - started
    held(f"{count:,} schedules of {steps:,} steps in {seconds:,.0f} s: 0 violations")
    assert seconds < 10 * 300


def explore_all(seeds: range) -> int:
    with world() as built:
        return sum(explore(seed, built) for seed in seeds)


def somebody_elses_write_counts_as_mine(patch: pytest.MonkeyPatch) -> None:
    write = documents._write
    patch.setattr(documents, "_write", lambda *parts, **options: (write(*parts, **options)[0], True))


def an_unclear_answer_counts_as_success(patch: pytest.MonkeyPatch) -> None:
    def write(
        objects: ObjectStore, key: str, body: Mapping[str, Any], put: Callable[[bytes], str], **_: Any
    ) -> tuple[Document, bool]:
        mine = {**body, "format": 1, "nonce": documents.secrets.token_hex(16)}
        data = canonical_json(mine).encode()
        try:
            return Document(json.loads(data), put(data)), True
        except documents.UNCLEAR:
            return Document(json.loads(data), "?"), True

    patch.setattr(documents, "_write", write)


def the_history_is_not_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AliasStore, "_keep", lambda *_: None)


def a_late_duplicate_is_not_recognised(patch: pytest.MonkeyPatch) -> None:
    generations = AliasStore._generations

    def forgetful(*parts: Any) -> list[Alias]:
        *past, current = generations(*parts)
        return [*(dataclasses.replace(earlier, promote_id="") for earlier in past), current]

    patch.setattr(AliasStore, "_generations", forgetful)


def files_are_deleted_without_giving_the_publish_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(garbage, "_abandon", lambda objects, key, publish_id, standing: standing)


def a_publish_is_given_up_once_only(patch: pytest.MonkeyPatch) -> None:
    abandon = garbage._abandon
    patch.setattr(garbage, "_abandon", lambda *parts: parts[3] or abandon(*parts))


def a_publish_that_was_given_up_names_what_it_had_uploaded(patch: pytest.MonkeyPatch) -> None:
    declare = ModelStore._declare

    def stubborn(self: ModelStore, manifest: dict[str, Any], newest: int, abandoned: Document | None) -> Document:
        intent = declare(self, manifest, newest, abandoned)
        while intent.body.get("abandoned"):
            intent = declare(self, manifest, newest, intent)
        return intent

    patch.setattr(ModelStore, "_declare", stubborn)


def a_ledger_is_written_again_where_it_was(patch: pytest.MonkeyPatch) -> None:
    ledger_key = layout.ledger_key
    patch.setattr(layout, "ledger_key", lambda name, publish_id, _: ledger_key(name, publish_id, "same"))


def an_intent_is_not_adopted(patch: pytest.MonkeyPatch) -> None:
    declare = ModelStore._declare

    def selfish(self: ModelStore, manifest: dict[str, Any], newest: int, abandoned: Document | None) -> Document:
        intent = declare(self, manifest, newest, abandoned)
        newest = max(manifests.numbers(self._objects, manifest["name"]))
        return Document({**intent.body, "manifest": manifest, "newest": newest, "abandoned": False}, intent.etag)

    patch.setattr(ModelStore, "_declare", selfish)


def aliases_are_not_fenced_before_pruning(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AliasStore, "fence", lambda *_: None)


def a_version_that_is_being_pruned_can_be_promoted(patch: pytest.MonkeyPatch) -> None:
    require = manifests.require

    def careless(*parts: Any) -> dict[str, Any]:
        return {name: value for name, value in require(*parts).items() if name != "pruning"}

    patch.setattr(manifests, "require", careless)


@pytest.mark.parametrize(
    "taken_away",
    [
        somebody_elses_write_counts_as_mine,
        an_unclear_answer_counts_as_success,
        the_history_is_not_written,
        a_late_duplicate_is_not_recognised,
        files_are_deleted_without_giving_the_publish_up,
        a_publish_is_given_up_once_only,
        a_publish_that_was_given_up_names_what_it_had_uploaded,
        a_ledger_is_written_again_where_it_was,
        an_intent_is_not_adopted,
        aliases_are_not_fenced_before_pruning,
        a_version_that_is_being_pruned_can_be_promoted,
    ],
    ids=lambda taken_away: taken_away.__name__,
)
def test_each_part_of_the_protocols_is_missed_when_it_is_taken_away(
    start: World, taken_away: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_away(monkeypatch)

    for seed in range(POWER):
        try:
            explore(seed, start)
        except Violation as violation:
            print(f"missed after {seed + 1} schedules: {str(violation).splitlines()[0]}")
            return
    pytest.fail(f"nobody misses it in {POWER} schedules")


def test_a_violation_names_its_seed_and_the_steps_that_led_there(start: World, monkeypatch: pytest.MonkeyPatch) -> None:
    the_history_is_not_written(monkeypatch)

    with pytest.raises(Violation, match=r"^seed \d+: history lacks a generation") as found:
        for seed in range(POWER):
            explore(seed, start)

    with pytest.raises(Violation) as again:
        explore(found.value.seed, start)
    assert str(again.value) == str(found.value)
    assert "promoter put models/news/aliases/champion.json" in str(found.value)


def test_nothing_of_a_schedule_stays_on_the_disk() -> None:
    with world() as built:
        explore(0, built)
        folder = built.folder
        assert not list(folder.rglob(".verify-*"))

    assert not folder.exists()
