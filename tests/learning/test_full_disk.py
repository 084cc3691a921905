"""A full disk at every place that writes: one line with path and bytes needed, and nothing partial left."""

import errno
import json
import re
from pathlib import Path

import pytest

from learning.pulling import Puller, headlines, make_spec, write_csv
from learning.staging import staged
from learning.tiny_model import make_rows, write_base, write_rows
from transfer_learning import run
from transfer_learning.errors import BadInput
from transfer_learning.hub import hub_error


@pytest.fixture
def puller(tmp_path: Path) -> Puller:
    return Puller(tmp_path / "pulls")


@pytest.mark.parametrize("size", [1_000, 5_000, 60_000, 120_000, 150_000])
def test_a_pull_says_how_much_it_needs_and_leaves_nothing(puller, disk_of, tmp_path, size):
    source = write_csv(tmp_path / "news.csv", headlines(2_000))
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


def test_a_stage_that_cannot_write_its_model_ends_in_one_line_and_leaves_nothing(disk_of, tmp_path):
    inputs = {"base": [str(write_base(tmp_path / "base"))], "train": [str(write_rows(tmp_path / "train", make_rows(12)))]}
    (tmp_path / "job").mkdir()
    job = {"protocol": 1, "stage": "fine_tune", "spec": {"epochs": 1}, "inputs": inputs, "out": str(tmp_path / "job" / "out")}
    (tmp_path / "job" / "job.json").write_text(json.dumps(job))
    disk_of(9_000)

    code, line = 0, ""
    try:
        run.run_stage(job)
    except BadInput as error:
        code, line = run.describe(error)
    disk_of(-1)

    assert code == 65
    assert re.match(r"DISK_FULL \S+/job/out/model/model.safetensors needs [\d,]+ bytes, and the disk is full — ", line)
    assert list((tmp_path / "job" / "out").iterdir()) == []
