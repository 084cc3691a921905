"""Aliases: which version is live, who moved it there and why, and the way back.

An alias is one JSON document that is only ever replaced by compare-and-swap. Each move makes a new generation; before anyone
moves on from generation g, ``history/g`` is written from the alias's own body, so a crash between the two loses nothing.
Generation 0 is a place without a version, reserved before the first move, so that ``fence`` finds every alias there may be; from
that move on ``history/0`` shows that there was an alias, should its file be lost.
Generations only grow, so an alias that moved away and back (A-B-A) is not the alias that was seen.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from transfer_learning.errors import BadInput, Refused
from transfer_learning.specs.names import NAME_PATTERN
from transfer_learning.store import documents, layout, manifests
from transfer_learning.store.moves import Alias, Move, broken_rules, has_moved, ways_back
from transfer_learning.store.object_store import ObjectStore

ALIAS_FILE = re.compile(rf"({NAME_PATTERN.pattern})(?:[.]json|/history/\d+[.]json)", re.ASCII)
"""An alias or one of its past generations, below the aliases of a model; whatever else lies there is not ours."""


class AliasStore:
    """The aliases of all models below one root."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._past: dict[tuple[str, str, int], Alias] = {}  # history never changes, so what was read once is kept

    def read(self, name: str, alias: str = "champion") -> Alias | None:
        """Return the alias as it stands, or None.

        Raises:
            BadInput: it is gone, and its history is there.
        """
        document = self._document(name, alias)
        return Alias.from_body(document.body) if document and document.body["generation"] else None

    def live(self, name: str, alias: str = "champion") -> Alias | None:
        """Return the alias as it stands, or None; its version is there, and it is not older than its history.

        Raises:
            BadInput: as ``read``; or the manifest of its version is gone; or it is of an older backup.
        """
        found = self.read(name, alias)
        while found is not None and self._was_moved_on(name, alias, found):
            seen, found = found, self.read(name, alias)
            if found == seen:
                key = layout.alias_key(name, alias)
                raise _damaged_history(self._objects.full_uri(key), "goes further than the alias, which is of an older backup")
        if found is not None:
            _manifest(self._objects, name, found.version)
        return found

    def all(self, name: str) -> dict[str, Alias]:
        """Return every alias of a model by its name."""
        return {alias: found for alias in self._names(name) if (found := self.read(name, alias))}

    def history(self, name: str, alias: str = "champion") -> list[Alias]:
        """Return every generation, oldest first, the present one included."""
        current = self.read(name, alias)
        return self._generations(name, alias, current) if current else []

    def promote(
        self,
        name: str,
        version: int,
        *,
        alias: str = "champion",
        promote_id: str,
        actor: str,
        reason: str,
        expected_generation: int | None,
        as_of: str | None,
        override_reason: str | None = None,
    ) -> Move:
        """Point the alias at a version, unless that breaks a rule.

        Args:
            name: of the model.
            version: a published one.
            alias: created when it does not exist.
            promote_id: the same in every retry of the same task.
            actor: who asks.
            reason: why.
            expected_generation: of the alias that the version was compared with; None: there was none.
            as_of: time of the run, ISO 8601; its data may not be older than the champion's.
            override_reason: sets broken rules aside; always on record.

        Raises:
            Refused: no such version; or, without an override, the alias has moved, the data are older than the champion's, or
                the version was rolled back from.
            OutcomeUnknown: the answer was lost and could not be read back; the same promote id settles it.
        """

        def plan(current: Alias | None, past: list[Alias]) -> dict[str, Any] | None:
            if current and current.version == version:
                return None
            manifest = manifests.require(self._objects, name, version, Refused)  # no override makes a version out of nothing
            if "pruning" in manifest:
                raise Refused("VERSION_PRUNED", f"version {version} of model {name} is being pruned", "promote a newer one")
            broken = list(broken_rules(name, version, alias, current, past, expected_generation, as_of))
            if broken and not override_reason:
                raise broken[0]
            codes = [refusal.code for refusal in broken]
            # Kept even when nothing here was broken: the caller may have set its own rules aside, such as the gate's.
            record = {"override_reason": override_reason, "overridden": codes} if override_reason else {}
            return {"version": version, "as_of": as_of, "reason": reason, "kind": "promote", **record}

        return self._move(name, alias, promote_id, actor, plan)

    def rollback(
        self,
        name: str,
        *,
        alias: str = "champion",
        promote_id: str,
        actor: str,
        reason: str,
        expected_generation: int | None = None,
    ) -> Move:
        """Point the alias at the newest earlier version that was not itself rolled back from since.

        Args:
            name: of the model.
            alias: to move.
            promote_id: the same in every retry of the same request.
            actor: who asks.
            reason: why.
            expected_generation: refuse when the alias has moved on from it; None moves whatever is there.

        Raises:
            BadInput: there is no alias, or nothing to go back to.
            Refused: the alias has moved.
            OutcomeUnknown: as for ``promote``.
        """

        def plan(current: Alias | None, past: list[Alias]) -> dict[str, Any]:
            if current is None:
                raise BadInput("NO_ALIAS", f"model {name} has no alias {alias!r}, so there is nothing to roll back")
            if expected_generation is not None and expected_generation != current.generation:
                raise has_moved(name, alias, current, expected_generation)
            target = next((a for a in ways_back(past) if _is_live(self._objects, name, a.version)), None)
            if target is None:
                raise BadInput(
                    "NOTHING_BEFORE",
                    f"no version of {name} was {alias} before version {current.version} and stands to be gone back to",
                    "promote another version",
                )
            return {"version": target.version, "as_of": target.as_of, "reason": reason, "kind": "rollback"}

        return self._move(name, alias, promote_id, actor, plan)

    def ways_back(self, name: str, alias: str, count: int) -> list[int]:
        """Return the versions that so many rollbacks in a row would go to; fewer where there is nothing before."""
        past, targets = self.history(name, alias), list[int]()
        while past and len(targets) < count:
            target = next((a for a in ways_back(past) if _is_live(self._objects, name, a.version, being_pruned=True)), None)
            if target is None:
                break
            targets.append(target.version)
            past.append(dataclasses.replace(target, generation=past[-1].generation + 1, kind="rollback"))
        return targets

    def fence(self, name: str) -> None:
        """Make every move that has not yet been written look again at what it moves to.

        Each alias is replaced by itself: the compare-and-swap of a move that read it before fails then.
        """
        for alias in self._names(name):
            mine = False
            while not mine:
                document = self._document(name, alias)
                assert document is not None, "what is listed is there"
                body = {**document.body, "alias_nonce": document.body.get("alias_nonce", document.body["nonce"])}
                _, mine = documents.replace(self._objects, layout.alias_key(name, alias), body, document.etag)

    def _was_moved_on(self, name: str, alias: str, seen: Alias) -> bool:
        """Return whether the generation after this one was itself moved on from."""
        return documents.read(self._objects, layout.history_key(name, alias, seen.generation + 1)) is not None

    def _names(self, name: str) -> list[str]:
        prefix = layout.aliases_prefix(name)
        keys = (info.key.removeprefix(prefix) for info in self._objects.list(prefix))
        return sorted({match[1] for key in keys if (match := ALIAS_FILE.fullmatch(key))})

    def _document(self, name: str, alias: str) -> documents.Document | None:
        key = layout.alias_key(name, alias)
        document = documents.read(self._objects, key)
        if document is None and any(True for _ in self._objects.list(layout.history_prefix(name, alias))):
            raise BadInput(
                "LOST_ALIAS",
                "is gone, and the history of the alias is there",
                "restore it from a backup, or delete its history to begin anew",
                file=self._objects.full_uri(key),
            )
        return document

    def _move(
        self,
        name: str,
        alias: str,
        promote_id: str,
        actor: str,
        plan: Callable[[Alias | None, list[Alias]], dict[str, Any] | None],
    ) -> Move:
        """Move the alias as ``plan`` says for what stands there, again and again until nobody comes in between."""
        key = layout.alias_key(name, alias)
        while True:
            document = self._document(name, alias)
            if document is None:
                reserved = {"generation": 0, "version": None, "actor": actor, "at": datetime.now(UTC).isoformat()}
                document, _ = documents.create(self._objects, key, reserved)
            current = Alias.from_body(document.body) if document.body["generation"] else None
            if current and current.promote_id == promote_id:
                return Move(current, moved=True, duplicate="current")
            past = self._generations(name, alias, current) if current else []
            if current and any(earlier.promote_id == promote_id for earlier in past):
                return Move(current, moved=False, duplicate="late")
            change = plan(current, past)
            if change is None:
                assert current is not None
                return Move(current, moved=False, duplicate="current")
            body = {
                **change,
                "generation": current.generation + 1 if current else 1,
                "previous": current.version if current else None,
                "promote_id": promote_id,
                "actor": actor,
                "at": datetime.now(UTC).isoformat(),
            }
            self._keep(name, alias, document)
            written, mine = documents.replace(self._objects, key, body, document.etag)
            if mine:
                return Move(Alias.from_body(written.body), moved=True)

    def _keep(self, name: str, alias: str, document: documents.Document) -> None:
        """Write the present generation to the history, before it is moved on from; that of 0 shows that there was an alias."""
        body = {**document.body, "alias_nonce": document.body.get("alias_nonce", document.body["nonce"])}
        key = layout.history_key(name, alias, body["generation"])
        kept, _ = documents.create(self._objects, key, body)
        if kept.body["alias_nonce"] != body["alias_nonce"]:
            raise _damaged_history(self._objects.full_uri(key), "is the past of another alias")

    def _generations(self, name: str, alias: str, current: Alias) -> list[Alias]:
        return [*(self._generation(name, alias, g) for g in range(1, current.generation)), current]

    def _generation(self, name: str, alias: str, generation: int) -> Alias:
        where = (name, alias, generation)
        if where not in self._past:
            key = layout.history_key(name, alias, generation)
            document = documents.read(self._objects, key)
            if document is None:
                raise _damaged_history(self._objects.full_uri(key), "is missing")
            self._past[where] = Alias.from_body(document.body)
        return self._past[where]


def _damaged_history(uri: str, what: str) -> BadInput:
    fix = "restore the alias and its history from one backup, or delete both to begin anew"
    return BadInput("DAMAGED_HISTORY", f"the history of the alias {what}", fix, file=uri)


def _is_live(objects: ObjectStore, name: str, version: int, *, being_pruned: bool = False) -> bool:
    """Return whether a version was not pruned, and may be moved to unless ``being_pruned`` ones are asked for too."""
    manifest = _manifest(objects, name, version)
    return "pruned" not in manifest and (being_pruned or "pruning" not in manifest)


def _manifest(objects: ObjectStore, name: str, version: int) -> manifests.Manifest:
    """Return the manifest, or tombstone, of a version that was promoted, which therefore is known to have been there."""
    manifest = manifests.read(objects, name, version)
    if manifest is None:
        raise manifests.loss(objects, name, version, "promoted")
    return manifest
