"""Checkpoints in the store: whole or not there, the newest first."""

import hashlib
import json

import pytest

from learning.store.faults import FaultyObjectStore
from transfer_learning.store.checkpoints import CheckpointStore, is_complete


def checkpoint(folder, step, weights=b"weights"):
    """Write a checkpoint as the train loop does."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "weights.safetensors").write_bytes(weights)
    files = {"weights.safetensors": {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}}
    (path / "_COMPLETE.json").write_text(json.dumps({"format": 1, "files": files}))
    return path


@pytest.fixture
def store(objects):
    return CheckpointStore(objects, "f00d")


def test_the_newest_checkpoint_of_any_attempt_comes_back(store, tmp_path):
    store.upload(checkpoint(tmp_path, 3, b"three"), "first")
    store.upload(checkpoint(tmp_path, 12, b"twelve"), "first")
    store.upload(checkpoint(tmp_path, 7, b"seven"), "second")

    found = store.fetch_newest(tmp_path / "resume")

    assert found.name == "step-00000012"
    assert is_complete(found)
    assert (found / "weights.safetensors").read_bytes() == b"twelve"


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(store, tmp_path):
    assert store.fetch_newest(tmp_path / "resume") is None


@pytest.mark.promise(4)
@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "no marker", "torn marker", "marker names a path"])
def test_a_damaged_checkpoint_is_skipped_loudly_for_the_one_before(objects, store, tmp_path, damage):
    store.upload(checkpoint(tmp_path, 1), "first")
    store.upload(checkpoint(tmp_path, 2), "first")
    prefix, skipped = "checkpoints/f00d/first/step-00000002", []
    match damage:
        case "flip":
            objects.put(f"{prefix}/weights.safetensors", b"weightz")
        case "truncate":
            objects.put(f"{prefix}/weights.safetensors", b"weigh")
        case "missing":
            objects.delete(f"{prefix}/weights.safetensors")
        case "no marker":
            objects.delete(f"{prefix}/_COMPLETE.json")
        case "torn marker":
            objects.put(f"{prefix}/_COMPLETE.json", b'{"format": 1, "fi')
        case "marker names a path":
            objects.put(f"{prefix}/_COMPLETE.json", b'{"files": {"../../escape": {"bytes": 1, "sha256": "x"}}}')

    found = store.fetch_newest(tmp_path / "resume", skipped.append)

    assert found.name == "step-00000001"
    assert [step.name for step in (tmp_path / "resume").iterdir()] == ["step-00000001"]
    assert len(skipped) == (0 if damage == "no marker" else 1)


def test_the_marker_goes_up_last_and_comes_down_first(objects, tmp_path):
    """So that whoever is killed in the middle leaves no marker beside half a checkpoint."""
    watched = FaultyObjectStore(objects)
    store = CheckpointStore(watched, "f00d")
    for step in (1, 2):
        store.upload(checkpoint(tmp_path, step), "first")
    store.keep("first", {"step-00000002"})
    store.delete()

    for step in (1, 2):
        calls = [call for call in watched.calls if f"step-0000000{step}/" in call]
        files = ["weights.safetensors", "_COMPLETE.json"]
        assert [call.split()[0] for call in calls] == ["upload", "upload", "delete", "delete"]
        assert [call.split("/")[-1] for call in calls] == [*files, *files[::-1]]


def test_an_attempt_keeps_what_it_is_told_and_touches_no_other_attempt(objects, store, tmp_path):
    for step in (1, 2, 3):
        store.upload(checkpoint(tmp_path, step), "first")
    store.upload(checkpoint(tmp_path / "other", 1), "second")

    store.keep("first", {"step-00000002", "step-00000003"})

    left = {"/".join(info.key.split("/")[2:4]) for info in objects.list("checkpoints/f00d/")}
    assert left == {"first/step-00000002", "first/step-00000003", "second/step-00000001"}


def test_after_publishing_nothing_but_the_lease_is_left(objects, store, tmp_path):
    store.upload(checkpoint(tmp_path, 1), "first")
    objects.put("checkpoints/f00d/lease.json", b"{}")
    objects.put("checkpoints/beef/first/step-00000001/_COMPLETE.json", b"{}")

    store.delete()

    assert [info.key for info in objects.list("checkpoints/")] == [
        "checkpoints/beef/first/step-00000001/_COMPLETE.json",
        "checkpoints/f00d/lease.json",
    ]
