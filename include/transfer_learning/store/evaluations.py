"""Evaluations: the evidence behind every decision about a version. Only ever added to."""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transfer_learning.errors import BadInput, Refused
from transfer_learning.store import artifacts, documents, layout
from transfer_learning.store.object_store import ObjectStore

VERDICT = "verdict.json"
ADDED = ("nonce", "format", "written", "evaluation_id", "uri")
"""What the store adds to a verdict."""


class EvaluationStore:
    """Verdicts, predictions and pictures of all models below one root."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def write(self, name: str, version: int, evaluation_id: str, folder: Path) -> str:
        """Store the folder of an evaluation; its ``verdict.json`` comes last, so what can be read is complete.

        The same verdict under the same id is stored once. Another verdict under the same id, as a cleared task makes it, gets the
        id with ``-2``, ``-3`` …: evidence is never replaced.

        Returns:
            The URI that the evaluation lies under.

        Raises:
            BadInput: the folder has no readable ``verdict.json``.
            StoreError: the store failed; the same call again settles what happened.
        """
        verdict = _read_verdict(folder / VERDICT)
        evidence = [entry for entry in artifacts.list_files(folder) if entry["path"] != VERDICT]
        for attempt in itertools.count(1):
            identity = evaluation_id if attempt == 1 else f"{evaluation_id}-{attempt}"
            prefix = f"{layout.evaluations_prefix(name, version)}{layout.check_id(identity)}"
            written = documents.read(self._objects, f"{prefix}/{VERDICT}")
            if written is None:
                artifacts.upload_folder(self._objects, folder, evidence, prefix)
                body = {**verdict, "written": datetime.now(UTC).isoformat()}
                written, _ = documents.create(self._objects, f"{prefix}/{VERDICT}", body)
            if _without_additions(written.body) == _without_additions(verdict):
                return self._objects.full_uri(prefix)
        raise AssertionError("counting never ends")

    def read(self, name: str, version: int) -> list[dict[str, Any]]:
        """Return the verdicts on a version, newest last, each with ``evaluation_id``, ``uri`` and ``written`` (ISO 8601)."""
        return self._read_below(layout.evaluations_prefix(name, version))

    def count_test_uses(self, name: str, test_digest: str) -> int:
        """Return how many verdicts on a model were decided on this test set.

        Args:
            name: model name.
            test_digest: of the snapshot's test split (``split_digest`` of a verdict), or of the rows that were left of it
                without those in a ledger (``digest``).
        """
        tests = [verdict.get("test") or {} for verdict in self._read_below(layout.evaluations_prefix(name))]
        return sum(test_digest in (test.get("digest"), test.get("split_digest")) for test in tests)

    def require_passed(self, name: str, version: int) -> dict[str, Any]:
        """Return the newest verdict on a version that passed.

        Raises:
            Refused: the version was never evaluated, or its newest verdict is against it.
        """
        verdicts = self.read(name, version)
        if not verdicts:
            raise Refused(
                "UNEVALUATED", f"version {version} of {name} was never evaluated", "evaluate it, or give an override reason"
            )
        if not verdicts[-1]["passed"]:
            said = " ".join(map(str, verdicts[-1].get("sentences", ())))
            raise Refused(
                "NOT_PASSED", f"version {version} of {name} was {verdicts[-1]['decision']}: {said}", "give an override reason"
            )
        return verdicts[-1]

    def _read_below(self, prefix: str) -> list[dict[str, Any]]:
        keys = [info.key for info in self._objects.list(prefix) if info.key.endswith(f"/{VERDICT}")]
        with ThreadPoolExecutor(artifacts.WORKERS) as pool:
            found = pool.map(lambda key: documents.read(self._objects, key), keys)
            verdicts = [
                {**document.body, "evaluation_id": key.split("/")[-2], "uri": self._objects.full_uri(key.rpartition("/")[0])}
                for key, document in zip(keys, found, strict=True)
                if document is not None and not document.body.get("abandoned")  # a mark of garbage collection
            ]
        return sorted(verdicts, key=operator.itemgetter("written"))


def _read_verdict(path: Path) -> dict[str, Any]:
    try:
        verdict = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError) as error:
        raise BadInput("BAD_VERDICT", f"cannot be read: {error}", "run the evaluation again", file=path) from None
    if not isinstance(verdict, dict) or not isinstance(verdict.get("passed"), bool) or "decision" not in verdict:
        raise BadInput("BAD_VERDICT", "lacks decision or passed", "run the evaluation again", file=path)
    return verdict


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _without_additions(verdict: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in verdict.items() if name not in ADDED}
