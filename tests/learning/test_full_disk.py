"""A full disk at every place that writes: one line with path and bytes needed, and nothing partial left."""

import errno
import re
from pathlib import Path

import pytest

from learning.pulling import Puller, headlines, make_spec, write_csv
from learning.staging import staged
from learning.store.tiny import digest, publish, write_model
from learning.tiny_model import make_rows, write_base, write_rows
from promises import sizes
from transfer_learning import run
from transfer_learning.errors import BadInput
from transfer_learning.hub import hub_error
from transfer_learning.store.local import LocalObjectStore
from transfer_learning.store.models import ModelStore


@pytest.fixture
def puller(tmp_path: Path) -> Puller:
    return Puller(tmp_path / "pulls")


def budgets(count, largest):
    """Return so many sizes that a file may have, from one where libraries can still be imported to the last one that is too small."""
    return [200 + (largest - 200) * number // (count - 1) for number in range(count)]


@pytest.mark.promise(19)
@pytest.mark.parametrize("count", sizes(4, 20))
def test_a_pull_says_how_much_it_needs_and_leaves_nothing(puller, disk_of, tmp_path, count, held):
    source = write_csv(tmp_path / "news.csv", headlines(2_000))

    for size in budgets(count, 150_000):
        disk_of(size)
        with pytest.raises(BadInput) as caught:
            puller.pull(make_spec(source))
        disk_of(-1)

        line = re.fullmatch(
            r"DISK_FULL (\S+) needs ([\d,]+) bytes, and the disk is full — make room or choose another disk", str(caught.value)
        )
        assert line is not None
        assert line[1] == str(puller.out)
        assert int(line[2].replace(",", "")) >= 2 * source.stat().st_size
        assert list(puller.out.iterdir()) == []
        assert puller.store.names() == []
    held(f"{count} budgets of a pull")


@pytest.mark.promise(19)
@pytest.mark.parametrize("count", sizes(4, 15))
def test_a_publish_says_how_much_it_needs_and_the_old_version_stands(disk_of, tmp_path, count, held):
    objects = LocalObjectStore(tmp_path / "store")
    models = ModelStore(objects)
    publish(objects, tmp_path, 1)
    write_model(tmp_path / digest(2)[:8], 2)

    for size in budgets(count, 1_000):
        disk_of(size)
        with pytest.raises(BadInput) as caught:
            models.publish(name="news", folder=tmp_path / digest(2)[:8], publish_id="2", fingerprint="2", facts={})
        disk_of(-1)

        assert re.fullmatch(rf"DISK_FULL {tmp_path}/store/\S+ needs [\d,]+ bytes, and the disk is full — .+", str(caught.value))
        assert [manifest["version"] for manifest in models.versions("news")] == [1]
        models.fetch("news", 1, tmp_path / f"fetched-{size}")
        assert not list((tmp_path / "store").rglob("unfinished/*"))
    assert publish(objects, tmp_path, 2)[0].version == 2
    held(f"{count} of a publish")


def test_after_a_full_disk_the_same_pull_works(puller, disk_of, tmp_path):
    spec = make_spec(write_csv(tmp_path / "news.csv", headlines(2_000)))
    disk_of(60_000)
    with pytest.raises(BadInput, match="^DISK_FULL"):
        puller.pull(spec)
    disk_of(-1)

    assert puller.pull(spec)["rows"] == 2_000


def test_a_query_that_does_not_fit_is_one_line(disk_of, tmp_path):
    def rows(connection, query):
        for start in range(0, 10_000, 1_000):
            yield [{"id": str(start + i), "text": f"text {start + i}", "label": "x"} for i in range(1_000)]

    disk_of(100_000)

    with pytest.raises(BadInput, match=r"^DISK_FULL \S+/staged/00000 needs [\d,]+ bytes, and the disk is full — "):
        staged(tmp_path, "sql://news", query="SELECT", sql=rows)

    assert not (tmp_path / "staged" / "sources.json").exists()


def test_a_hub_download_that_does_not_fit_is_no_hub_out_of_reach():
    error = hub_error(OSError(errno.ENOSPC, "No space left on device", "/cache/model.safetensors"), "hf://a/b", "mirror it")

    assert str(error) == "DISK_FULL /cache/model.safetensors does not fit on the disk — make room or choose another disk"
    assert not error.retryable


@pytest.mark.promise(19)
@pytest.mark.parametrize("count", sizes(3, 15))
def test_a_stage_that_cannot_write_its_model_ends_in_one_line_and_leaves_nothing(disk_of, tmp_path, count, held):
    inputs = {"base": [str(write_base(tmp_path / "base"))], "train": [str(write_rows(tmp_path / "train", make_rows(12)))]}

    for size in budgets(count, 9_000):
        out = tmp_path / f"job-{size}" / "out"
        disk_of(size)
        with pytest.raises(BadInput) as caught:
            run.run_stage({"stage": "fine_tune", "spec": {"epochs": 1}, "inputs": inputs, "out": str(out)})
        disk_of(-1)

        code, line = run.describe(caught.value)
        assert code == 65
        assert re.fullmatch(rf"DISK_FULL {out}/model/\S+ needs [\d,]+ bytes, and the disk is full — .+", line)
        assert list(out.iterdir()) == []
    held(f"{count} of a training: one line with path and bytes, nothing left")
