"""Comparisons in the store: whole or not there, and never replaced."""

import json
from pathlib import Path

import pytest

from learning.store.faults import FaultyObjectStore
from transfer_learning.errors import BadInput
from transfer_learning.store.comparisons import ComparisonStore
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore

DIGEST = "a" * 64


def write_comparison(folder: Path, sentence: str = "full is best") -> Path:
    folder.mkdir()
    (folder / "table.md").write_text("| full |")
    (folder / "curves.png").write_bytes(b"\x89PNG")
    (folder / "comparison.json").write_text(json.dumps({"format": 1, "sentences": [sentence], "rows": []}))
    return folder


def test_a_comparison_lies_below_its_model_with_table_and_picture(objects: ObjectStore, tmp_path: Path) -> None:
    written = ComparisonStore(objects).write("news", DIGEST, write_comparison(tmp_path / "out"))

    assert written["uri"] == f"{objects.uri}/models/news/comparisons/{DIGEST}"
    assert written == ComparisonStore(objects).read("news", DIGEST)
    assert [info.key.rpartition("/")[2] for info in objects.list("models/")] == ["comparison.json", "curves.png", "table.md"]


def test_what_can_be_read_is_complete() -> None:
    assert ComparisonStore(MemoryObjectStore()).read("news", DIGEST) is None


def test_the_document_is_written_last(tmp_path: Path) -> None:
    objects = FaultyObjectStore(MemoryObjectStore())

    ComparisonStore(objects).write("news", DIGEST, write_comparison(tmp_path / "out"))

    writes = [call.rpartition("/")[2] for call in objects.calls if call.startswith(("put", "upload"))]
    assert writes.index("comparison.json") == len(writes) - 1


def test_what_stands_there_is_never_replaced(objects: ObjectStore, tmp_path: Path) -> None:
    comparisons = ComparisonStore(objects)
    first = comparisons.write("news", DIGEST, write_comparison(tmp_path / "first"))

    again = comparisons.write("news", DIGEST, write_comparison(tmp_path / "again", "lora is best"))

    assert again == first
    assert comparisons.read("news", DIGEST) == first


@pytest.mark.parametrize(("name", "digest"), [("../news", DIGEST), ("news", "../" + DIGEST), ("news", "A" * 64)])
def test_names_are_checked_before_they_join_a_path(name: str, digest: str) -> None:
    with pytest.raises(BadInput):
        ComparisonStore(MemoryObjectStore()).read(name, digest)
