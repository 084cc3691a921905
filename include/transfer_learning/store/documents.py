"""JSON documents written once or by compare-and-swap, with every unclear answer settled.

A lost answer looks like a lost race, since boto3 repeats the write and meets its own success. Each document therefore carries a
nonce, and reading it back says whose it is. It carries the hash of itself and its key as well, so that no changed byte is
believed, nor a document in the place of another. Nothing here deletes.
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
"""Field with the hash of the others and of the key."""

SEALED = "sealed"
"""Field that says that there is such a hash: without it, a document is of an earlier release."""

ATTEMPTS = 10
UNCLEAR = (PreconditionFailed, OutcomeUnknown, StoreUnreachable)


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One JSON document as it stands in the store.

    Attributes:
        body: without what seals it.
        etag: of what stands there.
        sealed: it carries the hash of itself, and it is right; documents of earlier releases carry none.
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


def restore(objects: ObjectStore, key: str, body: Mapping[str, Any]) -> tuple[Document, bool]:
    """Create a document, also in the place of a damaged one: for what is known without it.

    Returns:
        As ``create``.

    Raises:
        OutcomeUnknown: as ``create``.
        BadInput: as ``create``.
    """
    try:
        return create(objects, key, body)
    except Damaged:
        return replace(objects, key, body, objects.get(key).etag)


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
    data = canonical_json({**mine, SEALED: True, SEAL: _sha256(key, mine)}).encode()
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
    uri = objects.full_uri(key)
    try:
        body, sealed = _opened(key, json.loads(stored.data))
    except (ValueError, RecursionError) as error:
        what = f"is not as it was written there: {error}"
        raise Damaged("DAMAGED_DOCUMENT", what, "restore it from a backup", file=uri) from error
    if (found := body.get("format")) != FORMAT:
        raise BadInput(
            "UNKNOWN_FORMAT", f"has format {found!r}, and this release reads {FORMAT}", "upgrade this package", file=uri
        )
    return Document(body, stored.etag, sealed)


def _opened(key: str, found: Any) -> tuple[dict[str, Any], bool]:
    """Return a document without what seals it, and whether it was sealed.

    Raises:
        ValueError: it is not what was sealed.
    """
    if not isinstance(found, dict) or "format" not in found:
        raise ValueError("it names no format")
    marks = found.pop(SEALED, None), found.pop(SEAL, None)
    if marks != (None, None) and marks != (True, _sha256(key, found)):
        raise ValueError("its hash is another one")
    return found, marks != (None, None)


def _sha256(key: str, body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json([key, body]).encode()).hexdigest()
