from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from learning.store.faults import DyingObjectStore, FaultyObjectStore, ForgetfulObjectStore, Killed
from learning.store.tiny import promote
from transfer_learning.errors import BadInput, OutcomeUnknown, PreconditionFailed, Refused, StoreError, StoreUnreachable
from transfer_learning.store import documents, layout
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.moves import Alias, Move
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore, Stored
from transfer_learning.store.retention import prune


def with_versions(objects: ObjectStore, count: int = 3, name: str = "news") -> AliasStore:
    for version in range(1, count + 1):
        documents.create(objects, layout.version_key(name, version), {"version": version})
    return AliasStore(objects)


def rollback(aliases: AliasStore, promote_id: str = "roll back", **options: object) -> Move:
    settings = {"promote_id": promote_id, "actor": "bob", "reason": "complaints", **options}
    return aliases.rollback("news", **settings)  # type: ignore[arg-type]


def champion(aliases: AliasStore) -> int | None:
    found = aliases.read("news")
    return found.version if found else None


def test_the_first_promotion_creates_the_alias(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    assert aliases.read("news") is None

    move = promote(aliases, 2, promote_id="night 1", actor="ada", reason="first", as_of="2026-01-01")

    assert (move.moved, move.duplicate) == (True, "")
    found = AliasStore(objects).read("news")
    assert found == move.alias
    assert found is not None
    assert (found.version, found.generation, found.previous, found.actor, found.reason) == (2, 1, None, "ada", "first")
    assert (found.promote_id, found.as_of, found.kind) == ("night 1", "2026-01-01", "promote")


def test_every_generation_is_kept_with_who_and_why(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    moves = [promote(aliases, 1, actor="ada").alias, promote(aliases, 2, actor="bob").alias, rollback(aliases).alias]

    assert AliasStore(objects).history("news") == moves
    assert [(a.version, a.generation, a.previous, a.actor) for a in moves] == [
        (1, 1, None, "ada"),
        (2, 2, 1, "bob"),
        (1, 3, 2, "bob"),
    ]
    assert [info.key for info in objects.list("models/news/aliases/")] == [
        "models/news/aliases/champion.json",
        "models/news/aliases/champion/history/0.json",
        "models/news/aliases/champion/history/1.json",
        "models/news/aliases/champion/history/2.json",
    ]


def test_aliases_of_a_model_are_independent(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1)
    promote(aliases, 2, alias="candidate")

    assert {alias: found.version for alias, found in aliases.all("news").items()} == {"champion": 1, "candidate": 2}


def test_a_retry_of_the_promotion_that_stands_succeeds_and_writes_nothing(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    first = promote(aliases, 1, promote_id="night 1", expected_generation=None)

    again = promote(AliasStore(objects), 1, promote_id="night 1", expected_generation=None)

    assert (again.alias, again.moved, again.duplicate) == (first.alias, True, "current")


def test_promoting_the_champion_changes_nothing(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    first = promote(aliases, 1)

    again = promote(aliases, 1, promote_id="another")

    assert (again.alias, again.moved, again.duplicate) == (first.alias, False, "current")


def test_a_late_duplicate_never_undoes_a_rollback(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1, promote_id="night 1")
    promote(aliases, 2, promote_id="night 2", expected_generation=1)
    rollback(aliases)

    late = promote(AliasStore(objects), 2, promote_id="night 2", expected_generation=1, override_reason="even so")

    assert (late.moved, late.duplicate, late.alias.version) == (False, "late", 1)
    assert champion(aliases) == 1


def test_a_late_duplicate_of_a_rollback_never_rolls_back_again(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    for version in (1, 2, 3):
        promote(aliases, version)
    rollback(aliases, "first")
    promote(aliases, 3, override_reason="fixed")

    late = rollback(aliases, "first")

    assert (late.moved, late.duplicate, champion(aliases)) == (False, "late", 3)


def test_two_rollbacks_go_two_steps_back_and_a_third_has_nowhere_to_go(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    for version in (1, 2, 3):
        promote(aliases, version, as_of=f"2026-01-0{version}")

    went = [rollback(aliases, str(step)).alias for step in (1, 2)]

    assert [(alias.version, alias.as_of) for alias in went] == [(2, "2026-01-02"), (1, "2026-01-01")]
    with pytest.raises(BadInput, match=r"^NOTHING_BEFORE no version of news was champion before version 1"):
        rollback(aliases, "3")
    assert champion(aliases) == 1


def test_a_rollback_passes_by_what_was_rolled_back_from(objects: ObjectStore) -> None:
    aliases = with_versions(objects, 4)
    promote(aliases, 1)
    promote(aliases, 2)
    rollback(aliases, "1")
    promote(aliases, 3)
    promote(aliases, 4)

    assert [rollback(aliases, step).alias.version for step in ("2", "3")] == [3, 1]


def test_a_version_that_came_back_by_override_can_be_rolled_back_to(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1)
    promote(aliases, 2)
    rollback(aliases, "1")
    promote(aliases, 2, override_reason="the complaints were about something else")
    promote(aliases, 3)

    assert rollback(aliases, "2").alias.version == 2


def test_a_rollback_passes_by_pruned_versions(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    for version in (1, 2, 3):
        promote(aliases, version)
    document = documents.read(objects, layout.version_key("news", 2))
    assert document is not None
    documents.replace(objects, layout.version_key("news", 2), {**document.body, "pruned": {}}, document.etag)

    assert rollback(aliases).alias.version == 1


def test_a_rollback_without_an_alias_is_one_line(objects: ObjectStore) -> None:
    with pytest.raises(BadInput, match=r"^NO_ALIAS model news has no alias 'champion', so there is nothing to roll back$"):
        rollback(with_versions(objects))


def test_a_rollback_from_a_stale_page_is_refused(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    for version in (1, 2, 3):
        promote(aliases, version)
    rollback(aliases, "ada", expected_generation=3)

    with pytest.raises(Refused, match="ALIAS_MOVED"):
        rollback(aliases, "bob", expected_generation=3)

    assert champion(aliases) == 2


Breaking = Callable[[AliasStore], dict[str, object]]


def moved_since(aliases: AliasStore) -> dict[str, object]:
    promote(aliases, 1)
    promote(aliases, 2)
    return {"expected_generation": 1}


def appeared_since(aliases: AliasStore) -> dict[str, object]:
    promote(aliases, 1)
    return {"expected_generation": None}


def gone_since(aliases: AliasStore) -> dict[str, object]:
    return {"expected_generation": 4}


def older_data(aliases: AliasStore) -> dict[str, object]:
    promote(aliases, 1, as_of="2026-01-02T00:00:00+01:00")
    return {"as_of": "2026-01-01T22:00:00Z"}


def rolled_back_before(aliases: AliasStore) -> dict[str, object]:
    promote(aliases, 1)
    promote(aliases, 3)
    rollback(aliases)
    promote(aliases, 2)
    return {}


BREAKING = [
    (
        moved_since,
        "ALIAS_MOVED",
        "champion of news has moved since: expected generation 1, found version 2 in generation 2, moved by ada",
    ),
    (appeared_since, "ALIAS_MOVED", "champion of news has moved since: expected it was not set, found version 1 in generation 1"),
    (gone_since, "ALIAS_MOVED", "champion of news has moved since: expected generation 4, found not set"),
    (
        older_data,
        "OLDER_DATA",
        "the run of version 3 of news is as of 2026-01-01T22:00:00Z, and that of champion as of 2026-01-02",
    ),
    (rolled_back_before, "ROLLED_BACK", "version 3 of news was once rolled back from as champion"),
]


@pytest.mark.parametrize(("breaking", "code", "line"), BREAKING, ids=[b[0].__name__ for b in BREAKING])
def test_a_promotion_against_the_rules_is_refused_in_one_line(
    objects: ObjectStore, breaking: Breaking, code: str, line: str
) -> None:
    aliases = with_versions(objects)
    options = breaking(aliases)
    before = aliases.read("news")

    with pytest.raises(Refused) as caught:
        promote(aliases, 3, promote_id="late", **options)

    assert str(caught.value).startswith(f"{code} {line}")
    assert "\n" not in str(caught.value)
    assert aliases.read("news") == before


@pytest.mark.parametrize(("breaking", "code", "line"), BREAKING, ids=[b[0].__name__ for b in BREAKING])
def test_an_override_promotes_all_the_same_and_stays_on_record(
    objects: ObjectStore, breaking: Breaking, code: str, line: str
) -> None:
    aliases = with_versions(objects)
    options = breaking(aliases)

    move = promote(aliases, 3, promote_id="late", override_reason="the desk asked for it", **options)

    recorded = aliases.history("news")[-1]
    assert (move.moved, recorded.version, recorded.override_reason) == (True, 3, "the desk asked for it")
    assert recorded.overridden == (code,)


def test_an_override_is_recorded_even_where_no_rule_of_the_store_was_broken(objects: ObjectStore) -> None:
    alias = promote(with_versions(objects), 1, override_reason="the gate refused it").alias

    assert (alias.override_reason, alias.overridden) == ("the gate refused it", ())


def test_no_override_promotes_a_version_that_does_not_exist(objects: ObjectStore) -> None:
    with pytest.raises(Refused, match=r"^NO_VERSION model news has no version 9 — versions: 1, 2, 3$"):
        promote(with_versions(objects), 9, override_reason="please")


def test_data_of_the_same_age_may_be_promoted(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1, as_of="2026-01-01T00:00:00+00:00")

    assert promote(aliases, 2, as_of="2026-01-01T01:00:00+01:00").moved


def test_a_time_that_is_none_is_one_line(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1, as_of="2026-01-01")

    with pytest.raises(BadInput, match="BAD_TIME as_of 'yesterday' is not an ISO 8601 time"):
        promote(aliases, 2, as_of="yesterday")


def test_an_alias_that_moved_away_and_back_is_not_the_one_that_was_seen(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1)
    seen = documents.read(objects, layout.alias_key("news", "champion"))
    promote(aliases, 2)
    promote(aliases, 1)
    assert seen is not None

    _, mine = documents.replace(objects, layout.alias_key("news", "champion"), seen.body, seen.etag)
    with pytest.raises(Refused, match="ALIAS_MOVED"):
        promote(aliases, 3, expected_generation=1)

    assert (mine, champion(aliases)) == (False, 1)


def test_someone_who_moves_in_between_is_seen(objects: ObjectStore) -> None:
    class Overtaken(FaultyObjectStore):
        overtaken = False

        def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
            if if_match is not None and not self.overtaken:
                self.overtaken = True
                promote(AliasStore(self._inner), 3, promote_id="faster")
            return super().put(key, data, if_absent=if_absent, if_match=if_match)

    aliases = with_versions(objects)
    promote(aliases, 1)

    with pytest.raises(Refused, match="ALIAS_MOVED"):
        promote(AliasStore(Overtaken(objects)), 2)

    assert [alias.version for alias in aliases.history("news")] == [1, 3]


@pytest.mark.promise(13)
@pytest.mark.parametrize("moves", [1, 2])
def test_an_alias_that_is_gone_while_its_history_is_there_is_not_begun_anew(objects: ObjectStore, moves: int) -> None:
    aliases = with_versions(objects)
    for version in range(1, moves + 1):
        promote(aliases, version)
    objects.delete(layout.alias_key("news", "champion"))
    before = {info.key for info in objects.list("")}

    uses: list[Callable[[], object]] = [
        lambda: AliasStore(objects).read("news"),
        lambda: AliasStore(objects).all("news"),
        lambda: AliasStore(objects).fence("news"),
        lambda: promote(AliasStore(objects), 3),
        lambda: rollback(AliasStore(objects)),
        lambda: prune(objects, "news", keep=1, actor="ada"),
    ]
    for use in uses:
        with pytest.raises(BadInput, match=r"^LOST_ALIAS \S+/champion.json is gone, and the history of the alias is there — "):
            use()

    assert {info.key for info in objects.list("")} == before


@pytest.mark.parametrize("name", ["champion.json.bak", ".DS_Store", "champion copy.json", "champion/notes.txt"])
def test_what_else_lies_among_the_aliases_is_none(objects: ObjectStore, name: str) -> None:
    aliases = with_versions(objects)
    promote(aliases, 2)
    objects.put(f"models/news/aliases/{name}", b"{}")

    assert list(aliases.all("news")) == ["champion"]
    aliases.fence("news")


def test_a_rollback_does_not_pass_by_a_version_whose_manifest_is_lost(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    for version in (1, 2, 3):
        promote(aliases, version)
    objects.delete(layout.version_key("news", 2))

    with pytest.raises(BadInput, match=r"^LOST_VERSION \S+/000002.json version 2 of news was promoted, and its manifest is gone"):
        rollback(aliases)
    assert champion(aliases) == 3


def test_an_alias_of_an_older_backup_is_one_line_where_the_live_version_is_asked_for(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1)
    older = objects.get(layout.alias_key("news", "champion")).data
    for version in (2, 3):
        promote(aliases, version)
    objects.put(layout.alias_key("news", "champion"), older)

    line = r"^DAMAGED_HISTORY \S+/champion.json the history of the alias goes further than the alias, which is of an older backup"
    with pytest.raises(BadInput, match=line):
        AliasStore(objects).live("news")


def test_an_alias_that_moves_on_while_it_is_read_is_no_older_one() -> None:
    objects = MemoryObjectStore()
    aliases = with_versions(objects)
    promote(aliases, 1)

    class MovingOn(FaultyObjectStore):
        moved = False

        def get(self, key: str) -> Stored:
            found = super().get(key)
            if key == layout.alias_key("news", "champion") and not self.moved:
                self.moved = True
                for version in (2, 3):
                    promote(AliasStore(objects), version)
            return found

    live = AliasStore(MovingOn(objects)).live("news")

    assert live is not None
    assert live.version == 3


def test_a_hole_in_the_history_of_an_alias_is_one_line_with_its_key(objects: ObjectStore) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1)
    promote(aliases, 2)
    objects.delete(layout.history_key("news", "champion", 1))

    with pytest.raises(BadInput, match=r"^DAMAGED_HISTORY \S+/history/1.json the history of the alias is missing — restore"):
        promote(AliasStore(objects), 3)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_mover_killed_at_any_call_loses_no_generation(objects: ObjectStore, after: bool) -> None:
    calls = 0
    for call in range(1, 50):
        name = f"news-{call}"
        aliases = with_versions(objects, name=name)
        promote(aliases, 1, name=name, promote_id="1", expected_generation=None)
        dying = DyingObjectStore(objects, call, after=after)
        try:
            promote(AliasStore(dying), 2, name=name, promote_id="2", expected_generation=1)
        except Killed:
            calls += 1
        promote(AliasStore(objects), 2, name=name, promote_id="2", expected_generation=1)

        assert [(a.version, a.promote_id) for a in AliasStore(objects).history(name)] == [(1, "1"), (2, "2")]
        if len(dying.calls) < call:
            break
    assert calls > 4


def test_an_unreadable_store_says_unknown_and_a_retry_settles_it(objects: ObjectStore) -> None:
    class Unreadable(FaultyObjectStore):
        silent = False

        def get(self, key: str) -> Stored:
            if self.silent:
                raise StoreUnreachable("no answer")
            return super().get(key)

        def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
            etag = self._inner.put(key, data, if_absent=if_absent, if_match=if_match)
            if if_match is None:
                return etag  # the place of a first generation, and the history
            self.silent = True
            raise PreconditionFailed("echo")

    aliases = with_versions(objects)

    with pytest.raises(OutcomeUnknown):
        aliases_of_unreadable = AliasStore(Unreadable(objects))
        aliases_of_unreadable.promote("news", 1, promote_id="1", actor="ada", reason="", expected_generation=None, as_of=None)

    again = promote(aliases, 1, promote_id="1", expected_generation=None)
    assert (again.moved, again.duplicate) == (True, "current")


@pytest.mark.parametrize("echo", [True, False], ids=["as a lost race", "as unknown"])
def test_a_move_whose_answer_was_lost_is_a_move_and_no_duplicate(objects: ObjectStore, echo: bool) -> None:
    aliases = with_versions(objects)
    promote(aliases, 1)
    forgetful = ForgetfulObjectStore(objects, at="put models/news/aliases/champion.json", echo=echo)

    move = promote(AliasStore(forgetful), 2)

    assert (move.moved, move.duplicate, champion(aliases)) == (True, "", 2)
    assert [alias.version for alias in aliases.history("news")] == [1, 2]


def check_linear(history: list[Alias], moves: list[Move]) -> None:
    """Every acknowledged move is one generation of the history, each follows the one before, and there is no other."""
    assert [alias.generation for alias in history] == list(range(1, len(history) + 1))
    assert [alias.previous for alias in history] == [None, *(alias.version for alias in history[:-1])]
    ids = [alias.promote_id for alias in history]
    assert len(set(ids)) == len(ids)
    acknowledged = [move.alias for move in moves if move.moved]
    assert sorted(alias.generation for alias in acknowledged) == sorted({alias.generation for alias in acknowledged})
    assert all(history[alias.generation - 1] == alias for alias in acknowledged)


def climb(objects: ObjectStore, worker: int, moves: int) -> Iterator[Move]:
    """Promote and roll back at random; refusals and lost races are part of it."""
    aliases, chance = AliasStore(objects), random.Random(worker)
    for number in range(moves):
        promote_id = f"{worker}-{number}"
        for _ in range(20):  # an unknown outcome is retried with the same id, as a task is
            try:
                if chance.random() < 0.2:
                    yield rollback(aliases, promote_id)
                else:
                    yield promote(
                        aliases, chance.randint(1, 5), promote_id=promote_id, override_reason=chance.choice([None, "x"])
                    )
            except (Refused, BadInput):
                pass
            except StoreError:
                continue
            break


def test_concurrent_moves_are_one_line_of_generations(new_objects: Callable[[], ObjectStore]) -> None:
    objects = new_objects()
    with_versions(objects, 5)
    each = 3 if objects.uri.startswith("s3://") else 20

    with ThreadPoolExecutor(8) as pool:
        moves = [m for found in pool.map(lambda worker: list(climb(new_objects(), worker, each)), range(8)) for m in found]

    history = AliasStore(objects).history("news")
    check_linear(history, moves)
    assert len(history) == sum(move.moved for move in moves)


def test_concurrent_moves_with_lost_answers_are_one_line_of_generations() -> None:
    shared = MemoryObjectStore()
    with_versions(shared, 5)

    def work(worker: int) -> list[Move]:
        return list(climb(ForgetfulObjectStore(shared, share=0.3, seed=worker), worker, 20))

    with ThreadPoolExecutor(8) as pool:
        moves = [move for found in pool.map(work, range(8)) for move in found]

    history = AliasStore(shared).history("news")
    check_linear(history, moves)
    assert len(history) > 20
