"""Explores schedules of publishers, promoters, garbage collection and pruning over one in-memory store.

Every actor is a greenlet, every operation on the store is one step, and a seeded choice decides who makes the next one. Each actor
meets at most one crash and one fault; what died or failed is tried again with the same ids, as Airflow does. The rules are checked
at every write. A violation names its seed; ``explore(seed)`` replays it, and so does

    pytest tests/learning/store/test_explorer.py --explorer-seed SEED
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
import shutil
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from greenlet import greenlet

from learning.store.faults import FaultyObjectStore, Killed
from transfer_learning.errors import BadInput, OutcomeUnknown, PreconditionFailed, Refused, StoreError, StoreUnreachable
from transfer_learning.refs import ModelRef
from transfer_learning.store import artifacts, documents, garbage, manifests, models, retention
from transfer_learning.store.aliases import Alias, AliasStore, Move
from transfer_learning.store.models import ModelStore
from transfer_learning.store.object_store import MemoryObjectStore

T = TypeVar("T")

NAME = "news"
VERSIONS = 3
"""How many versions there are before anybody acts; the last one is the champion."""
STEPS = 3000
"""A schedule that has not ended by then never will."""
TRIES = 8
STICKINESS = (0.0, 0.5, 0.8, 0.95)
"""How likely the same actor goes on: races need long runs of one actor as well as many switches."""
FAULTS = ("lost", "unsent", "echo")

Step = tuple[str, str, str, str]
"""Who did what, and what came in between."""


class Violation(AssertionError):
    """A rule was broken; ``seed`` replays it."""

    def __init__(self, seed: int, what: str, steps: list[Step]) -> None:
        trail = "\n  ".join(" ".join(filter(None, step)) for step in steps[-60:])
        super().__init__(f"seed {seed}: {what}\n  {trail}")
        self.seed = seed


@dataclasses.dataclass
class Actor:
    """Somebody with a task; ``act`` is one try of it and returns what became of it."""

    name: str
    act: Callable[[SteppedObjectStore], Any]
    crash: tuple[int, bool] | None = None
    """Number of the operation, and whether it comes after."""
    fault: tuple[int, str] | None = None
    operations: int = 0
    result: Any = None
    ended: str = ""


class RuledObjectStore(MemoryObjectStore):
    """An in-memory store that checks the rules at every change."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}
        """What versions name: sha256 by key."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        before = self._objects.get(key)
        etag = super().put(key, data, if_absent=if_absent, if_match=if_match)
        self._check(key, before[0] if before else None, data)
        return etag

    def delete(self, key: str) -> None:
        assert key not in self.files, f"{key} belongs to a version and was deleted"
        assert "/versions/" not in key and "/publishes/" not in key and "/aliases/" not in key, f"{key} was deleted"
        super().delete(key)

    def body(self, key: str) -> dict[str, Any] | None:
        found = self._objects.get(key)
        return None if found is None else json.loads(found[0])

    def copy_of_everything(self) -> RuledObjectStore:
        copied = RuledObjectStore()
        copied._objects, copied.files = dict(self._objects), dict(self.files)
        return copied

    def _check(self, key: str, before: bytes | None, data: bytes) -> None:
        if key in self.files:
            assert hashlib.sha256(data).hexdigest() == self.files[key], f"{key} of a version was overwritten"
        parts = key.split("/")
        if parts[2] == "versions":
            self._check_version(key, before and json.loads(before), json.loads(data))
        elif parts[2] == "publishes" and before is not None:
            assert json.loads(before).get("abandoned"), "an intent was replaced"
        elif parts[2] == "aliases" and len(parts) == 4:
            self._check_alias(before and json.loads(before), json.loads(data))
        elif parts[2] == "aliases":
            assert before is None, "the history was rewritten"

    def _check_version(self, key: str, before: dict[str, Any] | None, body: dict[str, Any]) -> None:
        version = body["version"]
        assert version == 1 or self.body(version_key(version - 1)), f"version {version} came after a gap"
        others = [v for v in range(1, version + 20) if v != version and (found := self.body(version_key(v)))]
        ids = [self.body(version_key(v))["publish_id"] for v in others]  # type: ignore[index]
        assert body["publish_id"] not in ids, f"publish {body['publish_id']} has two versions"
        if before is not None:
            kept = {name: before[name] for name in before if name not in ("nonce", "pruning", "pruned")}
            assert kept.items() <= body.items(), f"version {version} was replaced"
            assert "pruned" not in before, f"the tombstone of version {version} was replaced"
        named = {f"{body['artifact']}/{entry['path']}": entry["sha256"] for entry in body["files"]}
        if "pruned" in body:
            alias = self.body(ALIAS_KEY)
            assert alias is None or alias["version"] != version, f"the champion, version {version}, was pruned"
            for file in named:
                self.files.pop(file, None)
            return
        for file, sha256 in named.items():
            found = self._objects.get(file)
            assert found is not None, f"version {version} names {file}, which is not there"
            assert hashlib.sha256(found[0]).hexdigest() == sha256, f"{file} of version {version} is damaged"
        assert body["ledger"] in self._objects, f"version {version} lacks its ledger"
        self.files |= {**named, body["ledger"]: hashlib.sha256(self._objects[body["ledger"]][0]).hexdigest()}

    def _check_alias(self, before: dict[str, Any] | None, body: dict[str, Any]) -> None:
        generation = body["generation"]
        if before is None:
            assert generation == 0, "an alias began with a version"
            return
        if generation == before["generation"]:
            names = ("version", "promote_id", "previous")
            assert [body.get(name) for name in names] == [before.get(name) for name in names], "a generation was changed"
            return
        assert generation == before["generation"] + 1, f"generation {generation} came after {before['generation']}"
        assert body["previous"] == before["version"], "a move does not follow the one before"
        target = self.body(version_key(body["version"]))
        assert target and "pruned" not in target, f"the alias moved to version {body['version']}, which is not there"
        past = [self.body(f"{ALIASES}/champion/history/{g}.json") for g in range(1, generation)]
        assert all(past), f"history lacks a generation before {generation}"
        assert body["promote_id"] not in [old["promote_id"] for old in past if old], "a promote id moved the alias twice"
        assert [old["version"] for old in past if old][-1:] == [before["version"]] * (generation > 1), "history is not the past"


MODEL = f"models/{NAME}"
ALIASES = f"{MODEL}/aliases"
ALIAS_KEY = f"{ALIASES}/champion.json"


def version_key(version: int) -> str:
    return f"{MODEL}/versions/{version:06d}.json"


class SteppedObjectStore(FaultyObjectStore):
    """The store as one actor sees it: each call waits for its turn, and may crash or fail."""

    def __init__(self, inner: RuledObjectStore, actor: Actor, steps: list[Step]) -> None:
        super().__init__(inner)
        self._actor, self._steps = actor, steps
        self.rules = inner

    def around(self, number: int, name: str, call: Callable[[], T], *, writes: bool, conditional: bool) -> T:
        actor = self._actor
        greenlet.getcurrent().parent.switch()
        actor.operations += 1
        fault = actor.fault[1] if actor.fault and actor.fault[0] == actor.operations else ""
        crash = actor.crash if actor.crash and actor.crash[0] == actor.operations else None
        self._steps.append((actor.name, name, fault, "" if not crash else "dies after" if crash[1] else "dies before"))
        if crash and not crash[1]:
            raise Killed(name)
        if fault == "unsent":
            raise (OutcomeUnknown if writes else StoreUnreachable)(f"not sent: {name}")
        result = call()
        if crash:
            raise Killed(name)
        if fault == "echo" and conditional:
            raise PreconditionFailed(f"echo: {name}")
        if fault:
            raise (OutcomeUnknown if writes else StoreUnreachable)(f"lost: {name}")
        return result


class World:
    """What all schedules start from, built once: versions, a champion, and the folders to publish."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start = RuledObjectStore()
        for number in range(VERSIONS):
            self.write(f"old-{number}")
            self.publish(ModelStore(self.start), f"old-{number}", "past")
        self.write("a")
        self.write("b")
        promote(AliasStore(self.start), VERSIONS, "past", expected_generation=None)

    def write(self, task: str) -> None:
        (self.folder / task / "model").mkdir(parents=True)
        (self.folder / task / "model" / "config.json").write_text('{"model_type": "tiny"}')
        (self.folder / task / "model" / "head.txt").write_text(task)
        (self.folder / task / "ledger.parquet").write_text(f"rows of {task}")

    def publish(self, store: ModelStore, task: str, dag: str) -> ModelRef:
        folder = self.folder / task
        ref, _ = store.publish(
            name=NAME,
            folder=folder / "model",
            publish_id=f"{dag}-{task}",
            fingerprint=f"fingerprint-{task}",
            facts={},
            ledger=folder / "ledger.parquet",
        )
        return ref


def promote(
    store: AliasStore, version: int, promote_id: str, *, expected_generation: int | None = 1, override: str | None = None
) -> Move:
    return store.promote(
        NAME,
        version,
        promote_id=promote_id,
        actor="dag",
        reason="better",
        expected_generation=expected_generation,
        as_of=None,
        override_reason=override,
    )


@contextmanager
def world() -> Iterator[World]:
    """The start of all schedules. Inside, nothing of the store sleeps, uses threads or draws true randomness."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None, prefix="explorer-"))
    numbers = itertools.count()
    secrets = types.SimpleNamespace(token_hex=lambda size: f"{next(numbers):0{2 * size}x}")
    with ExitStack() as patches:
        patches.callback(shutil.rmtree, folder)
        for module, name, value in (
            (artifacts, "WORKERS", 1),
            (manifests, "READERS", 1),
            (documents, "time", types.SimpleNamespace(sleep=lambda seconds: None)),
            (documents, "secrets", secrets),
            (models, "secrets", secrets),
        ):
            patches.enter_context(mock.patch.object(module, name, value))
        yield World(folder)


def explore(seed: int, start: World) -> int:
    """Run one schedule and return the number of its steps.

    Raises:
        Violation: a rule was broken.
    """
    chance = random.Random(seed)
    store, steps = start.start.copy_of_everything(), list[Step]()
    actors = _cast(chance, start, store)
    running = {actor.name: greenlet(_live(actor, store, steps)) for actor in actors}
    stickiness = chance.choice(STICKINESS)
    current = ""
    try:
        for _ in range(STEPS):
            if not running:
                break
            if current not in running or chance.random() >= stickiness:
                current = chance.choice(list(running))
            running[current].switch()
            if running[current].dead:
                del running[current]
        assert not running, f"{', '.join(running)} never came to an end"
        _check_end(actors, store)
    except AssertionError as error:
        raise Violation(seed, str(error), steps) from error
    return len(steps)


def _cast(chance: random.Random, start: World, store: RuledObjectStore) -> list[Actor]:
    """Draw who takes part, and what befalls them."""
    same = chance.random() < 0.5  # a task that runs twice at once, or two tasks
    chosen, rounds = chance.randint(1, VERSIONS + 1), chance.choice((1, 1, 2, 3))
    override = chance.choice([None, "the desk asked for it"])

    def publisher(task: str) -> Callable[[SteppedObjectStore], ModelRef]:
        return lambda objects: start.publish(ModelStore(objects), task, "dag")

    def promoter(objects: SteppedObjectStore) -> Move | None:
        if chosen > VERSIONS and not store.body(version_key(chosen)):
            return None
        return promote(AliasStore(objects), chosen, "night", override=override)

    def operator(objects: SteppedObjectStore) -> Move:
        return AliasStore(objects).rollback(NAME, promote_id="desk", actor="ada", reason="complaints")

    def late(objects: SteppedObjectStore) -> Move:
        return promote(AliasStore(objects), chosen if chosen <= VERSIONS else 1, "night", override=override)

    def collector(objects: SteppedObjectStore) -> None:
        for _ in range(rounds):
            garbage.collect(objects, older_than=timedelta(0), delete=True)

    def pruner(objects: SteppedObjectStore) -> None:
        retention.prune(objects, NAME, keep=1, actor="cron", delete=True)

    actors = [
        Actor("publisher 1", publisher("a")),
        Actor("publisher 2", publisher("a" if same else "b")),
        Actor("promoter", promoter),
        Actor("collector", collector),
    ]
    actors += [Actor("operator", operator)] * (chance.random() < 0.6)
    actors += [Actor("late promoter", late)] * (chance.random() < 0.4)
    actors += [Actor("pruner", pruner)] * (chance.random() < 0.3)
    for actor in actors:
        last = 25 if actor.name.startswith(("publisher", "collector", "pruner")) else 10
        if chance.random() < 0.5:
            actor.crash = chance.randint(1, last), chance.random() < 0.5
        if chance.random() < 0.6:
            actor.fault = chance.randint(1, last), chance.choice(FAULTS)
    return actors


def _live(actor: Actor, store: RuledObjectStore, steps: list[Step]) -> Callable[[], None]:
    """Return the life of an actor: tries, until one ends."""

    def live() -> None:
        for _ in range(TRIES):
            try:
                actor.result = actor.act(SteppedObjectStore(store, actor, steps))
                actor.ended = "done"
            except Killed:
                continue
            except StoreError as error:
                assert error.retryable, error
                continue
            except Refused as error:
                actor.ended = error.code
            except BadInput as error:
                actor.ended = error.code
            return

    return live


def _check_end(actors: list[Actor], store: RuledObjectStore) -> None:
    versions = {}
    for number in itertools.count(1):
        body = store.body(version_key(number))
        if body is None:
            break
        versions[number] = body
    published = [actor.result for actor in actors if actor.name.startswith("publisher") and actor.ended == "done"]
    for actor in actors:
        allowed = {"done"}
        if actor.name.startswith("publisher"):
            allowed |= {"VERSION_PRUNED"}
        elif actor.name not in ("collector", "pruner"):
            allowed |= {"ALIAS_MOVED", "ROLLED_BACK", "VERSION_PRUNED", "NOTHING_BEFORE"}
        assert actor.ended in allowed, f"{actor.name} ended as {actor.ended!r}"
    for ref in published:
        assert versions[ref.version]["publish_id"] == ref.publish_id, f"version {ref.version} is another publish"
        assert [body["publish_id"] for body in versions.values()].count(ref.publish_id) == 1
    alias = store.body(ALIAS_KEY) or {}
    past = [store.body(f"{ALIASES}/champion/history/{generation}.json") for generation in range(1, alias["generation"])]
    history = [Alias.from_body(body) for body in (*past, alias) if body]
    for actor in actors:
        move = actor.result
        if isinstance(move, Move) and move.moved:
            asked = "desk" if actor.name == "operator" else "night"
            assert move.alias in history, f"generation {move.alias.generation} was acknowledged and never was"
            assert move.alias.promote_id == asked, f"{actor.name} was told of somebody else's move as its own"
    assert "pruned" not in versions[history[-1].version], "the champion is pruned"
