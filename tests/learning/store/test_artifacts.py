from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest

from learning.store.faults import FaultyObjectStore
from learning.store.tiny import write_model
from transfer_learning.errors import BadInput, StoreError, StoreUnreachable
from transfer_learning.store import artifacts
from transfer_learning.store.object_store import MemoryObjectStore, ObjectStore, OnBytes


class Exploit:
    def __reduce__(self):
        return (os.system, ("true",))


def test_files_are_listed_with_size_and_hash(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b.txt").write_bytes(b"abc")
    (tmp_path / "a.txt").write_bytes(b"")

    assert artifacts.list_files(tmp_path) == [
        {"path": "a.txt", "bytes": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"path": "deep/er/b.txt", "bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    ]


def test_an_empty_or_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^EMPTY_FOLDER .* holds no files"):
        artifacts.list_files(tmp_path)
    with pytest.raises(BadInput, match=r"^NO_FOLDER .*missing"):
        artifacts.list_files(tmp_path / "missing")


@pytest.mark.parametrize("target", ["/etc/passwd", "config.json", "nowhere", "."])
def test_links_are_refused(tmp_path: Path, target: str) -> None:
    write_model(tmp_path)
    (tmp_path / "link.json").symlink_to(target)

    with pytest.raises(BadInput, match=r"^BAD_FILE .* link\.json is a link"):
        artifacts.list_files(tmp_path)


def test_special_files_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")

    with pytest.raises(BadInput, match=r"^BAD_FILE .* pipe\.txt is a link or a special file"):
        artifacts.list_files(tmp_path)


@pytest.mark.parametrize("name", ["a\nb.txt", "a#b.txt", "a%2f.txt", "a\\b.txt"])
def test_file_names_that_do_not_fit_a_key_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")

    with pytest.raises(BadInput, match=r"^BAD_NAME"):
        artifacts.list_files(tmp_path)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "a.PT", "a.pth", "a.pkl", "a.pickle", "deep/a.ckpt", "a.npy", "a.h5", "modeling.py"]
)
def test_pickles_and_code_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"harmless")

    with pytest.raises(BadInput, match=r"^PICKLE"):
        artifacts.list_model_files(tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["vocab.txt", "config.json", "model.safetensors", "README.md", "spiece.model", "no_suffix"])
def test_renamed_pickles_are_refused_by_their_bytes(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Exploit(), protocol=protocol))

    with pytest.raises(BadInput, match=r"^(PICKLE|BAD_SAFETENSORS|BAD_JSON) "):
        artifacts.list_model_files(tmp_path)


@pytest.mark.parametrize(
    "start",
    [b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\x01", b"\x1f\x8b\x08", b"\x7fELF"],
    ids=["zip", "hdf5", "numpy", "gzip", "elf"],
)
def test_renamed_archives_are_refused_by_their_bytes(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "vocab.txt").write_bytes(start + b"\0" * 64)

    with pytest.raises(BadInput, match=r"^PICKLE"):
        artifacts.list_model_files(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[PAD]\ncat\n", "cat\ndog\nelk\n", "# Card\n", ".", "N.", "(", "im Garten\nist\n", "köln\n", "\ufeffthe"]
)
def test_plain_text_is_not_taken_for_a_pickle(tmp_path: Path, text: str) -> None:
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8")

    assert len(artifacts.list_model_files(tmp_path)) == 1


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 20, (500).to_bytes(8, "little") + b"{}"])
def test_safetensors_without_their_header_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)

    with pytest.raises(BadInput, match=r"^BAD_SAFETENSORS .*model\.safetensors"):
        artifacts.list_model_files(tmp_path)


def upload(objects: ObjectStore, folder: Path) -> list[dict[str, object]]:
    files = artifacts.list_model_files(folder)
    artifacts.upload_folder(objects, folder, files, "here")
    return files


def test_a_file_that_arrives_damaged_is_an_error_and_not_a_success(tmp_path: Path) -> None:
    class Damaging(FaultyObjectStore):
        def upload(self, key, path, on_bytes=None):
            self._inner.put(key, path.read_bytes()[:-1] + b"?")

    with pytest.raises(StoreError, match=r"here/\S+ did not arrive as it was sent"):
        upload(Damaging(MemoryObjectStore()), write_model(tmp_path / "model"))


def test_several_files_are_on_the_way_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=10)

    class Waiting(FaultyObjectStore):
        def upload(self, key, path, on_bytes=None):
            together.wait()
            super().upload(key, path, on_bytes)

    upload(Waiting(MemoryObjectStore()), write_model(tmp_path / "model"))

    assert not together.broken


def test_uploading_leaves_nothing_beside_the_folder(objects: ObjectStore, tmp_path: Path) -> None:
    upload(objects, write_model(tmp_path / "work" / "model"))

    assert [path.name for path in (tmp_path / "work").iterdir()] == ["model"]


def test_a_fetch_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    class Breaking(FaultyObjectStore):
        def download(self, key, path, on_bytes=None):
            if key.endswith("vocab.txt"):
                raise StoreUnreachable("gone")
            super().download(key, path, on_bytes)

    objects = MemoryObjectStore()
    files = upload(objects, write_model(tmp_path / "model"))

    with pytest.raises(StoreUnreachable):
        artifacts.fetch_folder(Breaking(objects), "here", files, tmp_path / "out" / "fetched")

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("times", [1, 2])
def test_bytes_that_change_on_their_way_are_fetched_once_more(tmp_path: Path, times: int) -> None:
    class Flipping(FaultyObjectStore):
        flipped = 0

        def download(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
            super().download(key, path, on_bytes)
            if key.endswith("vocab.txt") and self.flipped < times:
                self.flipped += 1
                path.write_bytes(path.read_bytes().replace(b"cat", b"bat"))

    objects, folder, moved = MemoryObjectStore(), write_model(tmp_path / "model"), list[int]()
    files = artifacts.list_files(folder)
    artifacts.upload_folder(objects, folder, files, "prefix")

    def fetch() -> Path:
        return artifacts.fetch_folder(Flipping(objects), "prefix", files, tmp_path / "fetched", on_bytes=moved.append)

    if times == 1:
        assert (fetch() / "vocab.txt").read_text() == "[PAD]\ncat\ndog\n"
        assert sum(moved) == sum(entry["bytes"] for entry in files)
    else:
        with pytest.raises(BadInput, match=r"^HASH_MISMATCH memory://store/prefix/vocab\.txt"):
            fetch()


def test_a_folder_that_is_already_there_is_not_downloaded_again(objects: ObjectStore, tmp_path: Path) -> None:
    files = upload(objects, write_model(tmp_path / "model"))
    artifacts.fetch_folder(objects, "here", files, tmp_path / "fetched")
    watched = FaultyObjectStore(objects)

    artifacts.fetch_folder(watched, "here", files, tmp_path / "fetched")

    assert watched.calls == []


def test_a_folder_with_something_else_is_left_alone(objects: ObjectStore, tmp_path: Path) -> None:
    files = upload(objects, write_model(tmp_path / "model"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years")

    with pytest.raises(BadInput, match=r"^FOLDER_EXISTS .*taken exists and holds something else"):
        artifacts.fetch_folder(objects, "here", files, tmp_path / "taken")

    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_filled(objects: ObjectStore, tmp_path: Path) -> None:
    files = upload(objects, write_model(tmp_path / "model"))
    (tmp_path / "empty").mkdir()

    artifacts.fetch_folder(objects, "here", files, tmp_path / "empty")

    assert artifacts.list_files(tmp_path / "empty") == files


@pytest.mark.parametrize(
    ("path", "code"),
    [("../escape.txt", "BAD_NAME"), ("/etc/x.txt", "BAD_NAME"), ("a//b.txt", "BAD_NAME"), ("pytorch_model.bin", "PICKLE")],
)
def test_a_hostile_manifest_places_no_file(tmp_path: Path, path: str, code: str) -> None:
    with pytest.raises(BadInput, match=f"^{code}"):
        artifacts.fetch_folder(
            MemoryObjectStore(), "here", [{"path": path, "bytes": 1, "sha256": "0" * 64}], tmp_path / "out" / "fetched"
        )

    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (6_341, "6.3 kB"), (90_900_000, "90.9 MB"), (10**12, "1,000.0 GB")]
)
def test_sizes_are_written_for_people(count: int, text: str) -> None:
    assert artifacts.size_text(count) == text
