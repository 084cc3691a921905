"""An attempt at a job: checkpoints go up while it runs, a lost lease ends it, a retry goes on."""

import shutil
import threading
import time

import pytest

from learning.store.test_checkpoints import checkpoint
from transfer_learning.attempts import Attempt, PartUploads
from transfer_learning.errors import OutcomeUnknown, Stopped, StoreUnreachable
from transfer_learning.jobs import StopFlag
from transfer_learning.store import documents
from transfer_learning.store.object_store import MemoryObjectStore


def keys(objects):
    return [info.key for info in objects.list("checkpoints/") if info.key.endswith("_COMPLETE.json")]


def test_a_retry_goes_on_from_what_the_attempt_before_uploaded(tmp_path):
    objects = MemoryObjectStore()
    with pytest.raises(RuntimeError), Attempt(objects, "f00d", owner="first") as attempt:
        watch = attempt.watcher(tmp_path)
        checkpoint(tmp_path / "checkpoints", 4, b"four")
        watch()
        raise RuntimeError("the child died")

    with Attempt(objects, "f00d", owner="second") as retry:
        found = retry.newest_checkpoint(tmp_path / "retry")

    assert (found / "weights.safetensors").read_bytes() == b"four"


def test_uploads_never_hold_up_the_job(tmp_path):
    objects = Slow()
    with Attempt(objects, "f00d", owner="first") as attempt:
        watch = attempt.watcher(tmp_path)
        checkpoint(tmp_path / "checkpoints", 1)
        started = time.monotonic()
        watch()
        took = time.monotonic() - started
        objects.go.set()

    assert took < 1
    assert len(keys(objects)) == 1


def test_a_checkpoint_that_the_child_prunes_during_its_upload_still_arrives_whole(tmp_path):
    objects = Slow()
    with Attempt(objects, "f00d", owner="first") as attempt:
        watch = attempt.watcher(tmp_path)
        folder = checkpoint(tmp_path / "checkpoints", 1)
        watch()
        shutil.rmtree(folder)
        objects.go.set()

    with Attempt(objects, "f00d", owner="second") as retry:
        assert retry.newest_checkpoint(tmp_path / "retry").name == "step-00000001"


def test_half_a_checkpoint_is_left_alone_until_it_is_whole(tmp_path):
    """The marker comes last and goes first, so without it a folder may be half there."""
    objects = MemoryObjectStore()
    with Attempt(objects, "f00d", owner="first") as attempt:
        watch = attempt.watcher(tmp_path)
        marker = checkpoint(tmp_path / "checkpoints", 1) / "_COMPLETE.json"
        whole = marker.read_bytes()
        marker.unlink()
        watch()
        time.sleep(0.2)  # for an upload that should not be
        marker.write_bytes(whole)
        watch()

    assert len(keys(objects)) == 1


def test_of_the_checkpoints_that_wait_only_the_newest_goes_up(tmp_path):
    objects = Slow()
    with Attempt(objects, "f00d", owner="first") as attempt:
        watch = attempt.watcher(tmp_path)
        checkpoint(tmp_path / "checkpoints", 1)
        watch()
        wait_until(lambda: objects.waiting)
        for step in (2, 3, 4):
            checkpoint(tmp_path / "checkpoints", step)
        watch()
        objects.go.set()

    assert sorted(key.split("/")[-2] for key in keys(objects)) == ["step-00000001", "step-00000004"]


def test_what_the_child_has_pruned_is_pruned_in_the_store(tmp_path):
    objects = MemoryObjectStore()
    with Attempt(objects, "f00d", owner="first") as attempt:
        watch = attempt.watcher(tmp_path)
        for step in (1, 2, 3):
            checkpoint(tmp_path / "checkpoints", step)
            shutil.rmtree(tmp_path / "checkpoints" / f"step-{step - 2:08d}", ignore_errors=True)
            watch()
            wait_until(lambda: any(f"step-{step:08d}" in key for key in keys(objects)))  # noqa: B023

    assert sorted(key.split("/")[-2] for key in keys(objects)) == ["step-00000002", "step-00000003"]


def test_finishing_deletes_the_checkpoints(tmp_path):
    objects = MemoryObjectStore()
    with Attempt(objects, "f00d", owner="first") as attempt:
        watch = attempt.watcher(tmp_path)
        checkpoint(tmp_path / "checkpoints", 1)
        watch()
        attempt.finish()

    assert keys(objects) == []


def test_an_attempt_that_lost_its_lease_ends(tmp_path):
    objects = MemoryObjectStore()
    with Attempt(objects, "f00d", owner="first", term=0.6) as attempt:
        watch = attempt.watcher(tmp_path)
        watch()
        standing = documents.read(objects, "checkpoints/f00d/lease.json")
        documents.replace(objects, "checkpoints/f00d/lease.json", {"owner": "second"}, standing.etag)
        time.sleep(0.5)

        with pytest.raises(StoreUnreachable, match="^LEASE_LOST"):
            watch()


def test_an_attempt_without_an_answer_from_the_store_ends_before_anybody_can_take_over(tmp_path):
    objects = Deaf()
    with Attempt(objects, "f00d", owner="first", term=0.6) as attempt:
        watch = attempt.watcher(tmp_path)
        objects.deaf = True
        time.sleep(0.5)

        with pytest.raises(StoreUnreachable, match="^LEASE_LOST"):
            watch()


def test_a_task_that_is_stopped_while_it_waits_says_so():
    objects, stop = MemoryObjectStore(), StopFlag()
    stop.set()
    with (
        Attempt(objects, "f00d", owner="first"),
        pytest.raises(Stopped),
        Attempt(objects, "f00d", owner="second", stop=stop, term=2),
    ):
        pass


def part(folder, name):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(name)


def test_finished_parts_go_up_once_while_the_child_runs(tmp_path):
    uploaded = []
    with PartUploads(tmp_path, uploaded.append, StopFlag()) as uploads:
        part(tmp_path, "part-1.parquet")
        part(tmp_path, ".half.part")
        uploads.notice()
        wait_until(lambda: uploaded)
        part(tmp_path, "part-2.parquet")
        uploads.notice()

    assert [path.name for path in uploaded] == ["part-1.parquet", "part-2.parquet"]


def test_a_part_that_cannot_be_uploaded_stops_neither_the_child_nor_the_others(tmp_path, caplog):
    uploaded = []

    def put(path):
        if path.name == "part-1.parquet":
            raise StoreUnreachable("no answer")
        uploaded.append(path.name)

    for name in ("part-1.parquet", "part-2.parquet"):
        part(tmp_path, name)
    with PartUploads(tmp_path, put, StopFlag()) as uploads:
        uploads.notice()

    assert uploaded == ["part-2.parquet"]
    assert caplog.messages == ["part-1.parquet could not be stored yet (no answer); the extraction goes on"]


def test_after_a_stop_nobody_waits_for_slow_uploads(tmp_path, monkeypatch):
    monkeypatch.setattr("transfer_learning.attempts.DRAIN_SECONDS", 0.1)
    go, stop, uploaded = threading.Event(), StopFlag(), []
    part(tmp_path, "part-1.parquet")

    with PartUploads(tmp_path, lambda path: go.wait(60) and uploaded.append(path), stop) as uploads:
        uploads.notice()
        stop.set()

    assert uploaded == []
    go.set()
    wait_until(lambda: uploaded)


class Slow(MemoryObjectStore):
    """A store whose uploads wait for a word."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.waiting = False

    def upload(self, key, path, on_bytes=None):
        self.waiting = True
        self.go.wait(10)
        super().upload(key, path, on_bytes)


class Deaf(MemoryObjectStore):
    """A store that can stop answering."""

    deaf = False

    def put(self, key, data, **conditions):
        if self.deaf:
            raise OutcomeUnknown("no answer")
        return super().put(key, data, **conditions)

    def get(self, key):
        if self.deaf:
            raise StoreUnreachable("no answer")
        return super().get(key)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()
