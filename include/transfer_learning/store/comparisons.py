"""Comparisons of several versions of one model: a table and a picture. Only ever added to.

What a try leaves behind that ended half-way is completed by the next one of the same comparison.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transfer_learning.store import artifacts, documents, layout
from transfer_learning.store.object_store import ObjectStore

COMPARISON = "comparison.json"


class ComparisonStore:
    """The comparisons of all models below one root."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def write(self, name: str, digest: str, folder: Path) -> dict[str, Any]:
        """Store the folder of a comparison; its ``comparison.json`` comes last, so what can be read is complete.

        Args:
            name: model name.
            digest: sha256 over everything that decides the comparison; what stands there already is never replaced.
            folder: what the stage ``compare`` wrote.

        Returns:
            The comparison, as ``read`` does.

        Raises:
            StoreError: the store failed; the same call again settles what happened.
        """
        prefix = layout.comparison_prefix(name, digest)
        evidence = [entry for entry in artifacts.list_files(folder) if entry["path"] != COMPARISON]
        artifacts.upload_folder(self._objects, folder, evidence, prefix)
        body = json.loads((folder / COMPARISON).read_bytes())
        written, _ = documents.create(self._objects, f"{prefix}/{COMPARISON}", {**body, "written": datetime.now(UTC).isoformat()})
        return self._told(written, prefix)

    def read(self, name: str, digest: str) -> dict[str, Any] | None:
        """Return a comparison with ``uri`` and ``written`` (ISO 8601), or None where there is none."""
        prefix = layout.comparison_prefix(name, digest)
        found = documents.read(self._objects, f"{prefix}/{COMPARISON}")
        return None if found is None else self._told(found, prefix)

    def _told(self, document: documents.Document, prefix: str) -> dict[str, Any]:
        return documents.plain(document) | {"uri": self._objects.full_uri(prefix)}
