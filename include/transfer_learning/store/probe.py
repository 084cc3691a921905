"""Refuses a store that cannot keep the promises: some S3 servers accept conditional writes and ignore the condition."""

from __future__ import annotations

from transfer_learning.errors import BadInput, PreconditionFailed
from transfer_learning.store import documents
from transfer_learning.store.object_store import ObjectStore

LAYOUT = 1
KEY = "store.json"
NO_SUCH_ETAG = '"00000000000000000000000000000000"'


def check_store(objects: ObjectStore) -> None:
    """Check that the root can be listed, read and written, is laid out as this release expects, and honours preconditions.

    The only trace is ``store.json``, written again with what it holds already.

    Raises:
        BadInput: access denied, no bucket, an unknown layout, or a store that ignores preconditions.
        StoreError: no usable answer.
    """
    marker = documents.read(objects, KEY) or documents.create(objects, KEY, {"layout": LAYOUT})[0]
    if marker.body.get("layout") != LAYOUT:
        raise BadInput(
            "UNKNOWN_LAYOUT",
            f"has layout {marker.body.get('layout')!r}, and this release knows {LAYOUT}",
            "upgrade this package or choose another root",
            file=objects.full_uri(KEY),
        )
    if not any(info.key == KEY for info in objects.list(KEY)):
        raise BadInput("WEAK_STORE", "does not list what was just written", "use a store that is consistent", file=objects.uri)
    _refuses(objects, "If-None-Match", if_absent=True)
    _refuses(objects, "If-Match", if_match=NO_SUCH_ETAG)
    # One that holds: by the way every alias moves. Somebody else's probe in between is as good a proof.
    standing = objects.get(KEY)
    documents.replace(objects, KEY, {"layout": LAYOUT}, standing.etag)


def _refuses(objects: ObjectStore, header: str, *, if_absent: bool = False, if_match: str | None = None) -> None:
    """Write under a condition that does not hold."""
    same = objects.get(KEY).data
    try:
        objects.put(KEY, same, if_absent=if_absent, if_match=if_match)
    except PreconditionFailed:
        return
    raise BadInput(
        "WEAK_STORE",
        f"ignores {header}: two publishers could overwrite each other",
        "use a store with conditional writes, such as AWS S3, MinIO or SeaweedFS 4.48",
        file=objects.uri,
    )
