"""An in-memory store that knows the rules of versions, intents and aliases, and fails an assertion at the write that breaks one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from transfer_learning.store.documents import SEAL
from transfer_learning.store.object_store import MemoryObjectStore

NAME = "news"
MODEL = f"models/{NAME}"
ALIASES = f"{MODEL}/aliases"
ALIAS_KEY = f"{ALIASES}/champion.json"


def version_key(version: int) -> str:
    return f"{MODEL}/versions/{version:06d}.json"


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
            kept = {name: before[name] for name in before if name not in ("nonce", SEAL, "pruning", "pruned")}
            assert kept.items() <= body.items(), f"version {version} was replaced"
            assert "pruned" not in before, f"the tombstone of version {version} was replaced"
        named = {f"{body['artifact']}/{entry['path']}": entry["sha256"] for entry in body["files"]}
        if "pruned" in body:
            alias = self.body(ALIAS_KEY)
            assert alias is None or alias["version"] != version, f"the champion, version {version}, was pruned"
            for file in named:
                self.files.pop(file, None)
            return
        assert body["ledger"], f"version {version} lacks its ledger"
        named |= {part["key"]: part["sha256"] for part in body["ledger"]}
        for file, sha256 in named.items():
            found = self._objects.get(file)
            assert found is not None, f"version {version} names {file}, which is not there"
            assert hashlib.sha256(found[0]).hexdigest() == sha256, f"{file} of version {version} is damaged"
        self.files |= named

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
