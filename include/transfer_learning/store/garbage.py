"""Garbage collection: deletes what no version will ever name. Of versions, ``retention`` alone deletes.

Safe at any age, against publishers that are still at work; the age limit only spares them from uploading anew.

- **Artifacts and ledgers.** First list, then settle the publish they belong to: an intent that is missing is created as abandoned
  (``If-None-Match``), one that is abandoned is replaced by another abandoned one (``If-Match``). From then on a publish whose
  files were listed cannot name them any more, for its own write needs the state before; it uploads anew. If the publish was
  faster and its intent names them, it is completed into a version and they stay. Intents are never deleted.
- **Evaluations** without a verdict: the verdict's place is taken by an abandoned one (``If-None-Match``) before the rest goes, so
  whoever is still writing there starts again under the next id.
- **Checkpoints and leases** go while the collector holds the job's lease, and the lease itself last.

Dataset parts that no snapshot names stay: a pull relies on parts that it saw in the store until its manifest is written, and
nothing tells the two apart. So do features, for the same reason: an extraction relies on the parts that it saw, and every later
one finds its rows in them.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from transfer_learning.errors import BadInput
from transfer_learning.specs import check_name
from transfer_learning.store import documents, layout, ledgers, manifests
from transfer_learning.store.checkpoints import CheckpointStore
from transfer_learning.store.evaluations import VERDICT
from transfer_learning.store.lease import TERM_SECONDS, Lease
from transfer_learning.store.manifests import Manifest
from transfer_learning.store.models import ModelStore
from transfer_learning.store.object_store import ObjectInfo, ObjectStore

QUIET = timedelta(seconds=10 * TERM_SECONDS)
"""A lease that was neither renewed nor given back for so long is nobody's."""
MARK_BYTES = 200
"""An abandoned verdict is shorter than this; longer ones need not be read."""
OWNER = "garbage collection"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that no version names."""

    kind: Literal["artifact", "ledger", "evaluation", "checkpoints"]
    key: str
    """Of the object, or the prefix of several, with a slash at the end."""
    files: int
    bytes: int
    newest: datetime
    """When it was last written to."""
    reason: str
    action: Literal["delete", "complete"] = "delete"
    """``complete``: its publish only lacks the version, and nothing is deleted."""
    outcome: Literal["found", "deleted", "completed", "kept"] = "found"
    """``completed``: a version names it now; ``kept``: it came to be used meanwhile."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**dataclasses.asdict(self), "newest": self.newest.isoformat()}


def collect(
    objects: ObjectStore,
    *,
    older_than: timedelta,
    delete: bool = False,
    now: datetime | None = None,
    problems: list[BadInput] | None = None,
) -> list[Finding]:
    """Find what is left of dead publishes, evaluations and jobs, and delete it if asked.

    Args:
        objects: the store.
        older_than: leave alone what was written to since.
        delete: do it; otherwise nothing at all is written.
        now: the time to count from; None is this machine's clock, compared with the store's times.
        problems: takes what is wrong with a model, such as a damaged document: the rest of that model is left alone, and the next
            one is gone through. None: it is raised.

    Returns:
        What was found, in order of key, each with what became of it.

    Raises:
        BadInput: something is wrong with a model, and nobody takes the problems.
        StoreError: the store failed; what was deleted until then was garbage, and the next run goes on.
    """
    now = now or datetime.now(UTC)
    limit = now - older_than
    listed: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
    for info in objects.list("models/"):
        if _fits(check_name, info.key.split("/")[1]):  # anything else is not ours
            listed[info.key.split("/")[1]].append(info)
    findings: list[Finding] = []
    published: set[str] = set()
    for name, infos in sorted(listed.items()):
        try:
            versions = manifests.read_every(objects, name)  # after the listing: what it does not name now was not named then
            published |= {manifest["fingerprint"] for manifest in versions if "pruned" not in manifest}
            for finding in _Model(objects, name, versions, delete).collect(infos, limit):
                findings.append(finding)
        except BadInput as problem:
            if problems is None:
                raise
            problems.append(problem)
    return [*findings, *_jobs(objects, published, limit, now - QUIET, delete)]


class _Model:
    """The garbage of one model."""

    def __init__(self, objects: ObjectStore, name: str, versions: Sequence[Manifest], delete: bool) -> None:
        self._objects, self._name, self._delete = objects, name, delete
        self._versions = {manifest["publish_id"]: manifest for manifest in versions}
        self._given = manifests.numbers_given(objects, name)
        self._artifacts = {f"{manifest['artifact']}/" for manifest in versions if "pruned" not in manifest}
        self._ledgers = {part["key"] for manifest in versions for part in ledgers.parts_of(manifest)}
        self._prefix = layout.model_prefix(name)

    def collect(self, infos: Iterable[ObjectInfo], limit: datetime) -> Iterator[Finding]:
        below: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
        for info in infos:
            below[info.key.removeprefix(self._prefix).split("/")[0]].append(info)
        orphans = {key: group for key, group in _grouped(below["artifacts"], 4).items() if key not in self._artifacts}
        orphans |= {info.key: [info] for info in below["ledgers"] if info.key not in self._ledgers}
        publishes: defaultdict[str, dict[str, list[ObjectInfo]]] = defaultdict(dict)
        for key, group in orphans.items():
            if _newest(group) <= limit and _fits(layout.check_id, self._publish_of(key)):
                publishes[self._publish_of(key)][key] = group
        for publish_id, places in sorted(publishes.items()):
            yield from self._settle(publish_id, places)
        for key, group in sorted(_grouped(below["evaluations"], 5).items()):
            if _newest(group) <= limit:
                yield from self._evaluation(key, group)

    def _publish_of(self, key: str) -> str:
        """Return the publish id of an artifact's prefix or of a ledger."""
        return key.removeprefix(self._prefix).split("/")[1].rpartition("-")[0]

    def _settle(self, publish_id: str, places: dict[str, list[ObjectInfo]]) -> Iterator[Finding]:
        """Decide on everything that one publish left behind."""
        version = self._versions.get(publish_id)
        if version is not None:
            reason = f"left behind by a try of version {version['version']}"
            reason += ", which has been pruned" if "pruned" in version else ""
            yield from (self._finding(key, group, reason, delete=True) for key, group in places.items())
            return
        key = layout.intent_key(self._name, publish_id)
        standing = documents.read(self._objects, key)
        if standing is None and publish_id in self._given:
            reason = (
                f"version {self._given[publish_id]} was published from it and has lost its manifest: restore that from a backup"
            )
            yield from (self._finding(key, group, reason, delete=False) for key, group in places.items())
            return
        if self._delete and (standing is None or standing.body.get("abandoned")):
            standing = _abandon(self._objects, key, publish_id, standing)
        manifest: dict[str, Any] = {}
        if standing is not None and not standing.body.get("abandoned"):
            manifest = standing.body["manifest"]
        named = {f"{manifest['artifact']}/", *(part["key"] for part in ledgers.parts_of(manifest))} if manifest else set()
        for place, group in places.items():
            if place not in named:
                yield self._finding(place, group, "its publish never came to an end", delete=True)
        unfinished = [(place, group) for place, group in places.items() if place in named]
        whole = not unfinished or not self._delete or self._complete(publish_id)
        for place, group in unfinished:
            if not whole:
                yield self._finding(place, group, "the files of its publish are gone", delete=False)
                continue
            found = self._finding(place, group, "its publish ended just before the version", delete=False)
            yield dataclasses.replace(found, action="complete", outcome="completed" if self._delete else "found")

    def _complete(self, publish_id: str) -> bool:
        """Return whether the files are there that a version would name."""
        try:
            ModelStore(self._objects).complete(self._name, publish_id)
        except BadInput as error:
            if error.code == "FILES_GONE":
                return False
            if error.code != "VERSION_PRUNED":  # completed and pruned by others meanwhile; the next run takes the bytes
                raise
        return True

    def _evaluation(self, prefix: str, group: list[ObjectInfo]) -> Iterator[Finding]:
        key = f"{prefix}{VERDICT}"
        verdict = next((info for info in group if info.key == key), None)
        evidence = [info for info in group if info.key != key]
        if not evidence or (verdict is not None and verdict.size > MARK_BYTES):
            return
        if verdict is not None:
            standing = documents.read(self._objects, key)
        elif self._delete:
            standing, _ = documents.create(self._objects, key, {"abandoned": True})
        else:
            standing = None
        if standing is None or standing.body.get("abandoned"):
            yield self._finding(prefix, evidence, "its evaluation never came to a verdict", delete=True)

    def _finding(self, key: str, group: list[ObjectInfo], reason: str, *, delete: bool) -> Finding:
        kind: Any = key.removeprefix(self._prefix).split("/")[0].removesuffix("s")
        found = _describe(kind, key, group, reason)
        if not (delete and self._delete):
            return found
        for info in group:
            self._objects.delete(info.key)
        return dataclasses.replace(found, outcome="deleted")


def _abandon(objects: ObjectStore, key: str, publish_id: str, standing: documents.Document | None) -> documents.Document:
    """Give a publish up, once more if it was given up before; return what stands then: that, or an intent that was faster."""
    body = {"publish_id": publish_id, "abandoned": True}
    if standing is None:
        return documents.create(objects, key, body)[0]
    return documents.replace(objects, key, body, standing.etag)[0]


def _jobs(objects: ObjectStore, published: set[str], limit: datetime, quiet: datetime, delete: bool) -> Iterator[Finding]:
    """Yield jobs that are published or old and that nobody runs."""
    for prefix, group in _grouped(objects.list("checkpoints/"), 2).items():
        fingerprint, newest = prefix.split("/")[1], _newest(group)
        if not _fits(layout.check_id, fingerprint) or (newest > limit and fingerprint not in published):
            continue
        lease = documents.read(objects, f"{prefix}lease.json")
        if lease is not None and not lease.body.get("released") and newest > quiet:
            continue
        reason = "its result is published" if fingerprint in published else "nobody has gone on with it"
        found = _describe("checkpoints", prefix, group, reason)
        if delete:
            done = _delete_job(objects, fingerprint, lease)
            found = dataclasses.replace(found, outcome="deleted" if done else "kept")
        yield found


def _delete_job(objects: ObjectStore, fingerprint: str, seen: documents.Document | None) -> bool:
    """Take the lease that was seen, delete the checkpoints and the lease; False when an attempt was faster."""
    lease = Lease(objects, fingerprint, owner=OWNER)
    if not lease.take(seen):
        return False
    CheckpointStore(objects, fingerprint).delete()
    lease.renew()
    if lease.lost:
        return False
    objects.delete(f"{layout.checkpoints_prefix(fingerprint)}lease.json")
    return True


def _describe(kind: Any, key: str, group: Sequence[ObjectInfo], reason: str) -> Finding:
    size = sum(info.size for info in group)
    return Finding(kind=kind, key=key, files=len(group), bytes=size, newest=_newest(group), reason=reason)


def _newest(group: Iterable[ObjectInfo]) -> datetime:
    return max(info.modified for info in group)


def _fits(check: Callable[[str], object], text: str) -> bool:
    try:
        check(text)
    except BadInput:
        return False
    return True


def _grouped(infos: Iterable[ObjectInfo], depth: int) -> dict[str, list[ObjectInfo]]:
    """Return the objects by their first ``depth`` path segments, with a slash at the end."""
    groups: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
    for info in infos:
        parts = info.key.split("/")
        if len(parts) > depth:
            groups["/".join(parts[:depth]) + "/"].append(info)
    return dict(groups)
