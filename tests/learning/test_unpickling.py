"""Nothing is ever unpickled: not a data file, not a checkpoint, not a cached file, not a model on its way through the store."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from learning import watched

SCRIPT = """
import hashlib, json, shutil, sys
from pathlib import Path
from learning import watched
sys.addaudithook(watched._note)
import pyarrow
from transfer_learning.errors import TransferLearningError

root, trace = Path(sys.argv[1]), Path(sys.argv[2])
lines = {}

def attempt(name, use):
    before = len(watched.seen)
    try:
        use()
        lines[name] = ["", watched.seen[before:]]
    except (TransferLearningError, pyarrow.ArrowInvalid) as error:  # Arrow files come from our own side alone
        lines[name] = [str(error), watched.seen[before:]]

def pull(suffix):
    from learning.pulling import Puller, make_spec
    puller = Puller(root / f"pull-{suffix}")
    puller.pull(make_spec(root / f"data.{suffix}"))

for suffix in ("csv", "jsonl", "parquet"):
    attempt(suffix, lambda: pull(suffix))

def staged():
    from transfer_learning.blocks.data.readers import batches, header, staged_files
    from transfer_learning.blocks.data.source_file import Reading
    (root / "staged").mkdir()
    shutil.copy(root / "data.csv", root / "staged" / "x.arrow")
    entry = [{"uri": "sql://x", "split": None, "format": "arrow", "files": ["x.arrow"]}]
    (root / "staged" / "sources.json").write_text(json.dumps(entry))
    for file in staged_files(root / "staged"):
        header(file, Reading(("id", "text", "label")))

attempt("arrow", staged)

def checkpoint():
    import torch
    from transfer_learning.blocks.checkpoint import Snapshot, resume, write
    from transfer_learning.stage import Run
    folder = write(root / "checkpoints", 1, Snapshot({"weights": {"a": torch.zeros(2)}}, {"identity": {"job": "a"}}))
    for path in folder.glob("*.safetensors"):
        shutil.copy(root / "data.csv", path)
    assert resume(Run(resume_from=folder), {"job": "a"}) is None

attempt("checkpoint", checkpoint)

def cached():
    from transfer_learning.store.cache import Cache
    digest = hashlib.sha256((root / "data.csv").read_bytes()).hexdigest()
    Cache(root / "cache").fetch(digest, lambda path: shutil.copy(root / "data.csv", path))
    Cache(root / "cache").fetch(digest, lambda path: shutil.copy(root / "data.csv", path))

attempt("cache", cached)

def published(name):
    from transfer_learning.store import Store
    folder = root / f"publish-{name}"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    shutil.copy(root / "data.csv", folder / name)
    store = Store.open(f"file://{root}/store")
    store.models.publish(name="news", folder=folder, publish_id="p", fingerprint="f", facts={})

for name in ("model.safetensors", "model.bin", "notes.txt", "more.json"):
    attempt(name, lambda: published(name))
stored = [path.name for path in (root / "store").rglob("*") if path.is_file()] if (root / "store").exists() else []
trace.write_text(json.dumps({"lines": lines, "stored": stored}))
"""


class Bomb:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.mark.promise(20)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_any_place_is_refused_unread(tmp_path: Path, protocol: int, held: Callable[[str], None]) -> None:
    root = tmp_path / watched.HOSTILE
    root.mkdir()
    for suffix in ("csv", "jsonl", "parquet"):
        (root / f"data.{suffix}").write_bytes(pickle.dumps(Bomb(str(tmp_path / "executed")), protocol=protocol))

    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root), str(tmp_path / "report.json")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        timeout=200,
    )

    report = json.loads((tmp_path / "report.json").read_text())
    lines = {name: line for name, (line, _) in report["lines"].items()}
    assert not [event for _, seen in report["lines"].values() for event in seen if event.startswith("unpickled")]
    assert not (tmp_path / "executed").exists()
    assert report["stored"] == []
    text = protocol == 0
    assert {name: line.partition(" ")[0] for name, line in lines.items()} == {
        "csv": "MISSING_COLUMN" if text else "WRONG_ENCODING",
        "jsonl": "BAD_JSON" if text else "WRONG_ENCODING",
        "parquet": "BAD_PARQUET",
        "arrow": "Not",
        "checkpoint": "",
        "cache": "",
        "model.safetensors": "BAD_SAFETENSORS",
        "model.bin": "PICKLE",
        "notes.txt": "PICKLE",
        "more.json": "BAD_JSON" if text else "PICKLE",
    }
    assert not [line for line in lines.values() if "\n" in line]
    held(f"protocol {protocol} in {len(lines)} places")


@pytest.mark.promise(20)
def test_the_watch_sees_what_is_unpickled(tmp_path: Path) -> None:
    """Without this, the tests above could be blind."""
    script = (
        "import pickle, sys, pathlib; from learning import watched; sys.addaudithook(watched._note);"
        "pickle.loads(pickle.dumps(pathlib.PurePosixPath('a'))); print(len(watched.seen))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(done.stdout) >= 1
