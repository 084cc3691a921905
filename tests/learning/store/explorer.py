"""Explores schedules of publishers, promoters, garbage collection and pruning over one in-memory store.

Every actor is a greenlet, every operation on the store is one step, and a seeded choice decides who makes the next one. Each actor
meets at most one crash and one fault; what died or failed is tried again with the same ids, as Airflow does. The rules are checked
at every write. A violation names its seed; ``explore(seed)`` replays it, and so does

    pytest tests/learning/store/test_explorer.py --explorer-seed SEED
"""

from __future__ import annotations

import dataclasses
import itertools
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
from learning.store.ruled_store import ALIAS_KEY, ALIASES, NAME, RuledObjectStore, version_key
from learning.store.tiny import write_ledger
from transfer_learning.errors import BadInput, OutcomeUnknown, PreconditionFailed, Refused, StoreError, StoreUnreachable
from transfer_learning.refs import ModelRef
from transfer_learning.store import artifacts, documents, garbage, manifests, models, retention
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.models import ModelStore
from transfer_learning.store.moves import Alias, Move

T = TypeVar("T")

VERSIONS = 3
"""How many versions there are before anybody acts; the last one is the champion."""
OLD_ROWS = 3
"""What every version was trained on: later ones name the part of the first version's ledger."""
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
        rows = [*(f"row {number}" for number in range(OLD_ROWS)), *([] if task == "old-0" else [f"row of {task}"])]
        write_ledger(self.folder / task / "ledger.parquet", *rows)

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
