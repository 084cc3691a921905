"""Hostile tables through the pull's real child: one line, exit 65, bounded memory, and nothing written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learning.pulling import make_spec
from transfer_learning.sources import stage_sources

pytestmark = pytest.mark.promise(27)

Harm = Callable[[Path], Path]
MEMORY_MB = 1_024


def csv_cell(folder: Path) -> Path:
    path = folder / "news.csv"
    with path.open("w") as file:
        file.write("id,text,label\n1,ok,x\n2,")
        for _ in range(100):
            file.write("a" * 1_000_000)
        file.write(",y\n")
    return path


def jsonl_cell(folder: Path) -> Path:
    path = folder / "news.jsonl"
    path.write_text('{"id": "1", "text": "ok", "label": "x"}\n{"id": "2", "text": "' + "a" * 100_000_000 + '", "label": "y"}\n')
    return path


def parquet_cell(folder: Path) -> Path:
    path = folder / "news.parquet"
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["ok", "a" * 100_000_000], "label": ["x", "y"]}), path)
    return path


def parquet_bomb(folder: Path) -> Path:
    """A few hundred kB that say a gigabyte: one text of 9 MB, repeated by its place in a dictionary."""
    path = folder / "news.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["a" * 9_000_000]))
    ids = pa.array([str(i) for i in range(20_000)])
    labels = pa.array(["x", "y"] * 10_000)
    pq.write_table(pa.table({"id": ids, "text": text, "label": labels}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 2_000_000
    return path


def lying_page(folder: Path) -> Path:
    """Every length in the file's page headers is raised; the pages themselves stay."""
    path = folder / "news.parquet"
    texts = [f"text number {i}" for i in range(5_000)]
    table = pa.table({"id": [str(i) for i in range(5_000)], "text": texts, "label": ["x", "y"] * 2_500})
    pq.write_table(table, path, use_dictionary=False, compression="snappy")
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    assert data[start] == 0x15  # thrift: the field "page type"
    data[start + 3 : start + 6] = b"\xfe\xff\x7f"  # the size after decompression, as a variable-length integer
    path.write_bytes(data)
    return path


def run_child(folder: Path, source: Path) -> tuple[int, str, int, list[Path]]:
    """Return exit code, line, peak memory in MB and what lies in ``out``."""
    stage_sources(make_spec(source), folder / "staged", log=lambda line: None)
    job = {"protocol": 1, "stage": "pull_dataset", "spec": make_spec(source).to_dict(), "out": str(folder / "out")}
    job |= {"inputs": {"source": [str(folder / "staged")]}, "limits": {"memory_mb": MEMORY_MB, "cpu_seconds": 60}}
    (folder / "job.json").write_text(json.dumps(job))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "transfer_learning.run", str(folder / "job.json")],
        env=environment,
        capture_output=True,
        check=False,
        timeout=120,
    )
    result = json.loads((folder / "result.json").read_text())
    assert done.returncode == result["code"]
    return done.returncode, result["message"], result["peak_memory"] // 10**6, list((folder / "out").iterdir())


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (csv_cell, "CELL_TOO_LARGE {file}:2 a cell is larger than 10 MB — look for an unclosed quote, or cut the text"),
        (jsonl_cell, "CELL_TOO_LARGE {file}:2 a cell is larger than 10 MB — look for an unclosed quote, or cut the text"),
        (
            parquet_cell,
            "CELL_TOO_LARGE {file}:2 [text] a cell is larger than 10 MB — look for an unclosed quote, or cut the text",
        ),
        (parquet_bomb, "LYING_PARQUET {file} a page needs more memory than the pull may take — write the file again"),
        (lying_page, "BAD_PARQUET {file} damaged after row 0: "),
    ],
)
def test_a_hostile_table_ends_in_one_line_within_its_limits(tmp_path: Path, harm: Harm, line: str) -> None:
    source = harm(tmp_path)

    code, message, peak, left = run_child(tmp_path, source)

    assert code == 65, message
    assert message.startswith(line.format(file=source)), message
    assert "\n" not in message
    assert peak < MEMORY_MB + 256
    assert left == []
