"""JSON documents written once or by compare-and-swap, with every unclear answer settled.

A lost answer looks like a lost race, since boto3 repeats the write and meets its own success. Each document therefore carries a
nonce, and reading it back says whose it is. It carries the hash of itself as well, so that no changed byte is believed. Nothing
here deletes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from transfer_learning.errors import (
    BadInput,
    ObjectMissing,
    OutcomeUnknown,
    PreconditionFailed,
    StoreError,
    StoreUnreachable,
)
from transfer_learning.settings import canonical_json
from transfer_learning.store.object_store import ObjectStore, Stored

FORMAT = 1
SEAL = "sha256"
"""Field with the hash of the others."""

ATTEMPTS = 10
UNCLEAR = (PreconditionFailed, OutcomeUnknown, StoreUnreachable)


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One JSON document as it stands in the store.

    Attributes:
        body: without the hash of itself.
        etag: of what stands there.
        sealed: it carries that hash, and it is right; documents of earlier releases carry none.
    """

    body: dict[str, Any]
    etag: str
    sealed: bool = True


class Damaged(BadInput):
    """A document that is not as it was written."""


def read(objects: ObjectStore, key: str) -> Document | None:
    """Return the document, or None where there is none.

    Raises:
        Damaged: it is not JSON, or not what it says its hash is.
        BadInput: it is of a format this release does not know.
        StoreUnreachable: no usable answer.
    """
    try:
        return _parsed(objects, key, objects.get(key))
    except ObjectMissing:
        return None


def create(objects: ObjectStore, key: str, body: Mapping[str, Any]) -> tuple[Document, bool]:
    """Write a document where none stands.

    Returns:
        What stands there now, and whether it is this very write. (Should another client replace it before an unclear answer is
        settled, it counts as the other's; documents that are ever replaced need their history to tell.)

    Raises:
        OutcomeUnknown: the answer was lost and the document cannot be read back; a retry settles it.
        BadInput: access is denied, or what stands there is of an unknown format.
    """
    return _write(
        objects, key, body, lambda data: objects.put(key, data, if_absent=True), stands_unchanged=lambda now: now is None
    )


def replace(objects: ObjectStore, key: str, body: Mapping[str, Any], etag: str) -> tuple[Document, bool]:
    """Write a document in the place of the one with this etag.

    Returns:
        As ``create``.

    Raises:
        ObjectMissing: there is no document any more.
        OutcomeUnknown: as ``create``.
        BadInput: as ``create``.
    """
    return _write(
        objects,
        key,
        body,
        lambda data: objects.put(key, data, if_match=etag),
        stands_unchanged=lambda now: now is not None and now.etag == etag,
    )


def plain(document: Document) -> dict[str, Any]:
    """Return the body without the nonce: what was written."""
    return {name: value for name, value in document.body.items() if name != "nonce"}


def _write(
    objects: ObjectStore,
    key: str,
    body: Mapping[str, Any],
    put: Callable[[bytes], str],
    *,
    stands_unchanged: Callable[[Document | None], bool],
) -> tuple[Document, bool]:
    nonce = secrets.token_hex(16)
    mine = json.loads(canonical_json({**body, "format": FORMAT, "nonce": nonce}))
    data = canonical_json({**mine, SEAL: _sha256(mine)}).encode()
    problem: StoreError | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0, min(1.0, 0.005 * 2**attempt)))  # noqa: S311
        try:
            return Document(mine, put(data)), True
        except UNCLEAR as error:
            problem = error
        standing = _read_back(objects, key, problem)
        if not stands_unchanged(standing):
            if standing is None:
                raise ObjectMissing(f"{objects.full_uri(key)} was deleted") from problem
            return standing, standing.body.get("nonce") == nonce
        # Not written, or not yet: writing again is safe, since the condition lets one copy in and both carry this nonce.
    raise OutcomeUnknown(f"{objects.full_uri(key)} could not be written in {ATTEMPTS} attempts: {problem}") from problem


def _read_back(objects: ObjectStore, key: str, problem: StoreError) -> Document | None:
    try:
        return read(objects, key)
    except StoreUnreachable as error:
        raise OutcomeUnknown(f"whether {objects.full_uri(key)} was written is unknown ({problem}; {error})") from error


def _parsed(objects: ObjectStore, key: str, stored: Stored) -> Document:
    uri, fix = objects.full_uri(key), "restore it from a backup"
    try:
        body = json.loads(stored.data)
        body = body if isinstance(body, dict) else {}
        seal = body.pop(SEAL, None)
        sealed = seal is not None and seal == _sha256(body)
    except ValueError as error:
        raise Damaged("DAMAGED_DOCUMENT", f"is not JSON ({error})", fix, file=uri) from error
    if seal is not None and not sealed:
        raise Damaged("DAMAGED_DOCUMENT", "is not as it was written: its hash is another one", fix, file=uri)
    if (found := body.get("format")) != FORMAT:
        raise BadInput(
            "UNKNOWN_FORMAT", f"has format {found!r}, and this release reads {FORMAT}", "upgrade this package", file=uri
        )
    return Document(body, stored.etag, sealed)


def _sha256(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()
