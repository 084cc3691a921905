"""Published models. Publishing is exactly once: however often a task runs again, dies or loses an answer, there is one version.

1. The folder goes to ``artifacts/<publish id>-<nonce>/``, which no other attempt writes to, and is verified there.
2. ``publishes/<publish id>.json``, the intent, is created with the whole manifest and the newest version number then seen. If
   another attempt of the same publish was first, its intent is adopted. One that garbage collection marked as abandoned
   (``{"abandoned": true}``) is replaced.
3. The version takes the next free number, and its fingerprint finds it from then on; see ``numbering``.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transfer_learning.errors import BadInput, ObjectMissing, nearest
from transfer_learning.refs import ModelRef, version_of
from transfer_learning.settings import canonical_json
from transfer_learning.store import artifacts, documents, layout, ledgers, manifests, numbering
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.cache import Cache
from transfer_learning.store.manifests import Manifest
from transfer_learning.store.object_store import ObjectStore, OnBytes


class ModelStore:
    """Immutable, numbered versions of models below one root."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def publish(
        self,
        *,
        name: str,
        folder: Path,
        publish_id: str,
        fingerprint: str,
        facts: dict[str, Any],
        ledger: Path | None = None,
        parents: Sequence[int] = (),
        force: bool = False,
        log: Callable[[str], None] = lambda _: None,
    ) -> tuple[ModelRef, int]:
        """Publish a folder as a new version, or find that this has happened already.

        Args:
            name: of the model.
            folder: a plain model folder on this machine.
            publish_id: the same in every retry of the same task; see ``identity.publish_id``.
            fingerprint: of the job; a version with the same one is returned and nothing is written.
            facts: dataset, base, spec, metrics, as_of, numerics, dag, run: what the manifest tells.
            ledger: Parquet file with the row keys and content keys that this model was trained on.
            parents: versions of this model that it was trained from.
            force: publish although the fingerprint is known.
            log: told about progress.

        Returns:
            The version, and how many bytes this call uploaded for it.

        Raises:
            BadInput: a file is a pickle, a link or otherwise refused; a parent does not exist; an alias is damaged.
            StoreError: the store failed; the same call again settles what happened.
        """
        found = None if force else self.find(name, fingerprint)
        if found is not None:
            log(f"Version {found.version} of {name} has this fingerprint: nothing to publish")
            return found, 0
        _check_facts(facts)
        described = {"name": name, "publish_id": publish_id, "fingerprint": fingerprint, "facts": facts}
        intent = documents.read(self._objects, layout.intent_key(name, publish_id))
        uploaded, artifact = 0, ""
        while intent is None or intent.body.get("abandoned"):  # garbage collection may have deleted what was uploaded: anew
            manifest, sent = self._upload(folder, ledger, parents, described, log)
            artifact, uploaded = manifest["artifact"], uploaded + sent
            intent = self._declare(manifest, numbering.newest(self._objects, name), intent)
        manifest = numbering.commit(self._objects, intent.body, uploaded=intent.body["manifest"]["artifact"] == artifact)
        return self._ref(manifest), uploaded

    def check(self, name: str) -> None:
        """Read what publishing reads beside the folder: what is wrong with it shows before a training, not after.

        Raises:
            BadInput: an alias is lost or damaged, or the manifest of the newest version is.
        """
        numbering.newest(self._objects, name)
        self._before(name, ())

    def complete(self, name: str, publish_id: str) -> ModelRef | None:
        """Finish a publish that declared its intent; None where none stands. For garbage collection: anybody may, at any time."""
        intent = documents.read(self._objects, layout.intent_key(name, publish_id))
        if intent is None or intent.body.get("abandoned"):
            return None
        return self._ref(numbering.commit(self._objects, intent.body, uploaded=False))

    def find(self, name: str, fingerprint: str) -> ModelRef | None:
        """Return the version with this fingerprint, unless it was pruned; a damaged pointer to it is written again."""
        try:
            pointer = documents.read(self._objects, layout.fingerprint_key(name, fingerprint))
        except documents.Damaged:
            same = [manifest for manifest in self.versions(name) if manifest["fingerprint"] == fingerprint]
            if same:
                numbering.remember(self._objects, same[-1])
            return self._ref(same[-1]) if same else None
        manifest = manifests.read(self._objects, name, pointer.body["version"]) if pointer else None
        if manifest is None or "pruned" in manifest or manifest["fingerprint"] != fingerprint:
            return None
        return self._ref(manifest)

    def names(self) -> list[str]:
        """Return the names of all models with a version."""
        return manifests.names(self._objects)

    def versions(self, name: str) -> list[Manifest]:
        """Return the manifests of a model, oldest first, without pruned versions."""
        return manifests.read_all(self._objects, name)

    def manifest(self, name: str, version: int) -> Manifest:
        """Return the manifest of a version.

        Raises:
            BadInput: there is no such version, or it was pruned; those that exist are named.
        """
        return manifests.require(self._objects, name, version)

    def require(self, ref: ModelRef) -> Manifest:
        """Return the manifest of the version that a ref is of.

        Raises:
            BadInput: as ``manifest``; or the number is of another publish.
        """
        manifest = self.manifest(ref.name, ref.version)
        if manifest["publish_id"] != ref.publish_id:
            what = f"version {ref.version} of model {ref.name} is not the one that was published as {ref.publish_id[:12]}"
            raise BadInput("OTHER_VERSION", what, "start a new run")
        return manifest

    def resolve(self, name: str, selector: str) -> int:
        """Return the version that an alias, ``latest`` or a number names.

        Raises:
            BadInput: there is none; what exists is named.
        """
        if selector.isascii() and selector.isdigit():
            return int(self.manifest(name, int(selector))["version"])
        if selector == "latest":
            versions = self.versions(name)
            if not versions:
                raise BadInput("NO_VERSION", f"model {name} has no versions", manifests.what_exists(self._objects, name))
            return int(versions[-1]["version"])
        aliases = AliasStore(self._objects)
        alias = aliases.live(name, selector)
        if alias is None:
            known = ", ".join(sorted(aliases.all(name))) or "none"
            raise BadInput(
                "NO_ALIAS",
                f"model {name} has no alias {selector!r}{nearest(selector, [*aliases.all(name), 'latest'])}",
                f"aliases: {known}; {manifests.what_exists(self._objects, name)}",
            )
        return int(self.manifest(name, alias.version)["version"])

    def fetch(
        self, name: str, version: int, destination: Path, *, cache: Cache | None = None, on_bytes: OnBytes | None = None
    ) -> Path:
        """Download a version, every file verified; ``destination`` appears whole or not at all.

        Raises:
            BadInput: no such version; a file is not what was published; or the destination is taken.
            StoreError: the store failed.
        """
        manifest = self.manifest(name, version)
        try:
            return artifacts.fetch_folder(
                self._objects, manifest["artifact"], manifest["files"], destination, cache=cache, on_bytes=on_bytes
            )
        except ObjectMissing:
            self.manifest(name, version)  # says so if it was pruned meanwhile
            raise

    def fetch_ledger(self, name: str, version: int, destination: Path, *, own: bool = False) -> list[Path]:
        """Download what a version was trained on: its own ledger and those of everything it was trained from.

        Args:
            name: of the model.
            version: its number.
            destination: a folder.
            own: leave out other models: what a language model has read is new to a classifier that went on from it.

        Returns:
            Parquet files below ``destination``, the version's own first; pruned ancestors count like any other.

        Raises:
            BadInput: no such version.
        """
        self.manifest(name, version)
        destination.mkdir(parents=True, exist_ok=True)
        files = []
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".ledgers-") as scratch:
            for manifest in self._ancestry(name, version):
                parts = ledgers.parts_of(manifest) if manifest["name"] == name or not own else []
                if parts:
                    path = destination / f"{manifest['name']}-{manifest['version']:06d}.parquet"
                    ledgers.fetch(self._objects, parts, path, Path(scratch))
                    files.append(path)
        return files

    def _ancestry(self, name: str, version: int) -> Iterator[Manifest]:
        """Yield a version and everything it was trained from, other models of this store included, each once."""
        waiting, seen = [(name, version)], set()
        while waiting:
            where = waiting.pop(0)
            if where in seen:
                continue
            seen.add(where)
            manifest = manifests.read(self._objects, *where) or manifests.require(self._objects, *where)
            yield manifest
            waiting += [(where[0], parent) for parent in manifest["parents"]]
            if base := version_of(str((manifest["facts"].get("base") or {}).get("uri", ""))):
                waiting.append(base)

    def _upload(
        self, folder: Path, ledger: Path | None, parents: Sequence[int], manifest: Manifest, log: Callable[[str], None]
    ) -> tuple[Manifest, int]:
        """Bring files and ledger into the store; return the manifest that describes them, and the bytes uploaded."""
        name, publish_id, nonce = manifest["name"], manifest["publish_id"], secrets.token_hex(8)
        files = artifacts.list_model_files(folder)
        before = self._before(name, parents)
        stored = {entry["sha256"]: f"{known['artifact']}/{entry['path']}" for known in before for entry in known["files"]}
        prefix = layout.artifact_prefix(name, publish_id, nonce)
        uploaded = artifacts.upload_folder(self._objects, folder, files, prefix, stored=stored, log=log)
        parts: list[ledgers.Part] = []
        if ledger is not None:
            known = [part for manifest in before for part in ledgers.parts_of(manifest)]
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".ledger-") as scratch:
                key = layout.ledger_key(name, publish_id, nonce)
                parts, sent = ledgers.upload(self._objects, ledger, key, known, Path(scratch))
            uploaded += sent
        return {
            **manifest,
            "artifact": prefix,
            "files": files,
            "ledger": parts,
            "parents": list(parents),
            "created": datetime.now(UTC).isoformat(),
            "bytes_uploaded": uploaded,
        }, uploaded

    def _before(self, name: str, parents: Sequence[int]) -> list[Manifest]:
        """Return the manifests of the parents and of the newest version: what lies in the store need not be sent again."""
        known = [manifests.require(self._objects, name, parent) for parent in parents]
        newest = manifests.read(self._objects, name, max(manifests.numbers(self._objects, name), default=0))
        return [*known, *([newest] if newest and "pruned" not in newest else [])]

    def _declare(self, manifest: Manifest, newest: int, abandoned: documents.Document | None) -> documents.Document:
        """Create the intent, or replace an abandoned one; return what stands: mine, another attempt's or the collector's."""
        key = layout.intent_key(manifest["name"], manifest["publish_id"])
        body = {"publish_id": manifest["publish_id"], "newest": newest, "manifest": manifest}
        if abandoned is None:
            return documents.create(self._objects, key, body)[0]
        return documents.replace(self._objects, key, body, abandoned.etag)[0]

    def _ref(self, manifest: Manifest) -> ModelRef:
        return ModelRef(
            name=manifest["name"],
            version=manifest["version"],
            uri=self._objects.full_uri(manifest["artifact"]),
            publish_id=manifest["publish_id"],
            fingerprint=manifest["fingerprint"],
            as_of=manifest["facts"].get("as_of"),
        )


def _check_facts(facts: dict[str, Any]) -> None:
    try:
        canonical_json(facts)
    except (TypeError, ValueError) as error:
        raise BadInput("BAD_FACTS", f"what the manifest would tell does not fit JSON: {error}", "leave it out") from None
