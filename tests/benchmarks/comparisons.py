"""The comparisons: ours and the peer alternately, on the same rows, in the same run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.torch import load_file

from benchmarks.corpora import Corpus, articles, headlines, write_parts
from benchmarks.runners import BASE, WIDTH, Bench
from benchmarks.table import Row, means, reported, speed
from transfer_learning.blocks.data.hashing import input_hash
from transfer_learning.blocks.feature_parts import lookup, read_parts
from transfer_learning.jobs import JobResult
from transfer_learning.specs import FeatureSpec, FineTuneSpec
from transfer_learning.stage import Run
from transfer_learning.store import Store
from transfer_learning.store.object_store import MemoryObjectStore

REPLAYED = (0.0, 0.5, 0.8)
"""Shares of older rows."""


def extraction(bench: Bench, pairs: int) -> list[Row]:
    """Features of articles and headlines against ``SentenceTransformer.encode``, in fp32 and with its model in bf16.

    Of the articles also 5% new rows with the features of all others stored, against all rows again: two pairs more.
    """
    cold, incremental = [], []
    corpus = articles(480, 0)
    old = write_parts(bench.new_folder() / "train", corpus.train[: len(corpus.train) * 20 // 21])
    stored = _extracted(bench, corpus, old).out.parent / "new_cache"
    folder = write_parts(bench.new_folder() / "train", corpus.train)
    for number in range(pairs + 2):
        few = _extracted(bench, corpus, folder, cache=stored)
        everything = _extracted(bench, corpus, folder)
        incremental.append((few.metrics["seconds"], everything.metrics["seconds"]))
        if number < pairs:
            cold.append((everything, _encoded(bench, corpus)))
    short = headlines(1200, 0)
    folder = write_parts(bench.new_folder() / "train", short.train)
    cold_short = [(_extracted(bench, short, folder), _encoded(bench, short)) for _ in range(pairs)]
    again = speed("extraction of 5% new rows vs all rows again", corpus.name, incremental, 15)
    return [*_against_encode(corpus, cold), *_against_encode(short, cold_short), again]


def _extracted(bench: Bench, corpus: Corpus, folder: Path, **options: Any) -> JobResult:
    spec = FeatureSpec(max_length=corpus.max_length)
    return bench.stage("feature_extract", spec, {"base": [BASE], "train": [folder]}, **options)


def _encoded(bench: Bench, corpus: Corpus) -> dict[bool, dict[str, Any]]:
    """Return what ``encode`` took, and its vectors, by whether its model is in bf16."""
    return {bf16: bench.peer("encode", texts=_texts(corpus), bf16=bf16, max_length=corpus.max_length) for bf16 in (False, True)}


def _against_encode(corpus: Corpus, pairs: list[tuple[JobResult, dict[bool, dict[str, Any]]]]) -> list[Row]:
    rows = []
    for bf16, tool, wanted in ((False, "encode", 2.0), (True, "encode, model in bf16", 1.1)):
        ours, peers = pairs[-1]
        cosine = _cosine(ours.out.parent / "new_cache", _texts(corpus), peers[bf16]["out"])
        times = [(ours.metrics["seconds"], peers[bf16]["seconds"]) for ours, peers in pairs]
        row = speed(f"cold extraction vs {tool} (lowest cosine {cosine:.4f})", corpus.name, times, wanted)
        rows.append(dataclasses.replace(row, holds=bool(row.holds and cosine >= 0.999)))
    return rows


def _texts(corpus: Corpus) -> list[str]:
    return [text for text, _ in corpus.train]


def full_fine_tuning(bench: Bench, pairs: int, make: Callable[[int], Corpus], epochs: int) -> list[Row]:
    """Every weight, same maths and epochs, against ``Trainer`` as it comes and best configured."""
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": 16}
    times: dict[str, list[tuple[float, float]]] = {"Trainer": [], "Trainer, best configured": []}
    for seed in range(pairs):
        corpus = make(seed)
        ours = bench.fine_tune(corpus, strategy="full", backbone_lr=1e-4, head_lr=1e-4, seed=seed, **settings)
        for tool, best in zip(times, (False, True), strict=True):
            peer = bench.peer("trainer", corpus, best=best, frozen=0, rate=1e-4, seed=seed, **settings)
            times[tool].append((ours["seconds"], peer["seconds"]))
    wanted = zip(times.items(), (2.0, 1.2), strict=True)
    return [speed(f"full fine-tuning vs {tool}", corpus.name, found, least) for (tool, found), least in wanted]


def top_blocks(bench: Bench, pairs: int) -> list[Row]:
    """The top 2 of 6 blocks over stored states against the same blocks frozen in the best configured ``Trainer``."""
    settings = {"epochs": 4, "batch_size": 16}
    times, judged = [], []
    for seed in range(pairs):
        corpus = articles(480, seed)
        ours = bench.fine_tune(corpus, strategy="top_layers", unfreeze_blocks=2, backbone_lr=2e-4, seed=seed, **settings)
        peer = bench.peer("trainer", corpus, best=True, frozen=4, rate=2e-4, seed=seed, **settings)
        times.append((ours["seconds"], peer["seconds"]))
        judged.append((ours["accuracy"], peer["accuracy"]))
    what = f"top 2 of 6 blocks (accuracy {means(judged)}) vs Trainer, same blocks frozen"
    return [speed(what, corpus.name, times, 2)]


def continued(bench: Bench, seeds: int) -> list[Row]:
    """Accuracy after four nights with 5% new rows each: going on from the last version with replay, against the base on all rows."""
    found = bench.side_by_side([functools.partial(_four_nights, bench, seed) for seed in range(seeds)])
    what, corpus = "accuracy after four nights from the last version, replay {:g}, vs the base on all rows", _night(4, 0).name
    return [reported(what.format(share), corpus, [(run[share], run["all rows"]) for run in found]) for share in REPLAYED]


def _four_nights(bench: Bench, seed: int) -> dict[Any, Any]:
    """Return the accuracy of the base on all rows, and of the last version by the share of older rows."""

    def judge(version: JobResult) -> float:
        accuracy = bench.accuracy(version.out / "model", _night(4, seed))
        shutil.rmtree(version.out / "model")
        return accuracy

    first, found = _version(bench, _night(0, seed), seed, None, None), {}
    for share in REPLAYED:
        version = first
        for number in range(1, 5):
            version = _version(bench, _night(number, seed), seed, version, share)
        found[share] = judge(version)
    return {**found, "all rows": judge(_version(bench, _night(4, seed), seed, None, None))}


def _night(number: int, seed: int) -> Corpus:
    return headlines((320, 336, 353, 371, 390)[number], seed, test_rows=1500)


def _version(bench: Bench, corpus: Corpus, seed: int, last: JobResult | None, replay: float | None) -> JobResult:
    """Train one night's version on one thread, from the last one; its ledger names the rows that are not new."""
    inputs = {"base": [BASE], "train": [write_parts(bench.new_folder() / "train", corpus.train)]}
    spec = FineTuneSpec(max_length=corpus.max_length, seed=seed, init_from="latest" if last else "base", replay=replay)
    if last is not None:
        inputs |= {"base": [last.out / "model"], "ledger": [last.out, *last.out.parent.glob("ledgers")]}
    result = bench.stage("fine_tune", spec, inputs, facts={"model": "news"}, threads=1)
    (result.out.parent / "ledgers").mkdir()
    for folder in inputs.get("ledger", ()):
        for path in folder.glob("*.parquet"):
            shutil.copy(path, result.out.parent / "ledgers" / f"{folder.parent.name}-{path.name}")
    return result


UPLOADING: dict[str, dict[str, Any]] = {
    "gradual_unfreeze": {"epochs": 1},
    "full": {"epochs": 1},
    "linear_probe": {},
    "probe_then_fine_tune": {"unfreeze_blocks": 2, "epochs": 1},
    "top_layers": {"unfreeze_blocks": 2, "epochs": 1},
    "lora": {"epochs": 1},
}
"""One epoch where that changes the same tensors as many; what takes longest comes first."""


def uploaded_bytes(bench: Bench) -> list[Row]:
    """What the second version of each strategy uploads, against the bytes of the tensors that changed."""
    calls = [functools.partial(_second_version, bench, strategy, settings) for strategy, settings in UPLOADING.items()]
    found = zip(UPLOADING, bench.side_by_side(calls), strict=True)
    return [
        Row(
            comparison=f"bytes uploaded by the second version, {strategy}",
            corpus=_night(1, 0).name,
            ours=sizes["uploaded"],
            peer=sizes["changed"],
            ratio=(ratio := sizes["uploaded"] / sizes["changed"]),
            interval=(ratio, ratio),
            wanted="changed tensors + 1%",
            holds=ratio <= 1.01,
            runs=1,
        )
        for strategy, sizes in found
    ]


def _second_version(bench: Bench, strategy: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Publish the versions of two nights; return the bytes that the second ``uploaded`` and that ``changed``."""
    store = Store(MemoryObjectStore())
    folders, uploaded = [], 0
    for night in range(2):
        corpus = _night(night, 0)
        folder = write_parts(bench.new_folder() / "train", corpus.train)
        spec = FineTuneSpec(strategy=strategy, max_length=corpus.max_length, **settings)  # type: ignore[arg-type]
        result = bench.stage("fine_tune", spec, {"base": [BASE], "train": [folder]}, threads=1)
        name = hashlib.sha256(f"{strategy} {night}".encode()).hexdigest()
        _, uploaded = store.models.publish(
            name="news", folder=result.out / "model", publish_id=name, fingerprint=name, facts={}, parents=[],
            ledger=result.out / "ledger.parquet",
        )  # fmt: skip
        folders.append(result.out / "model")
    return {"uploaded": uploaded, "changed": _changed_bytes(*folders)}


def memory(bench: Bench) -> list[Row]:
    """Peak memory of extraction for ten times the rows."""
    peaks = []
    for count in (1_000, 10_000):
        texts = [(f"{text} {number}", label) for number, (text, label) in _repeated(headlines(1000, 0).train, count)]
        folder = write_parts(bench.new_folder() / "train", texts)
        peaks.append(bench.stage("feature_extract", FeatureSpec(max_length=64), {"base": [BASE], "train": [folder]}).peak_memory)
    ratio = peaks[1] / peaks[0]
    return [
        Row(
            comparison="peak memory of extraction, 10x the rows",
            corpus="headlines, 1,000 and 10,000 rows",
            ours=peaks[1],
            peer=peaks[0],
            ratio=ratio,
            interval=(ratio, ratio),
            wanted="at most 1.1x",
            holds=ratio <= 1.1,
            runs=1,
        )
    ]


def _cosine(parts: Path, texts: list[str], peer: Path) -> float:
    ours = lookup(read_parts([parts], Run()), input_hash(pa.array(texts)), WIDTH).numpy()
    theirs = np.load(peer)
    products = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return float(products.min())


def _changed_bytes(first: Path, second: Path) -> int:
    """Return the bytes of the tensors of the second folder that the first does not hold."""
    known, tensors = ({p.relative_to(f).as_posix(): load_file(p) for p in f.rglob("*.safetensors")} for f in (first, second))
    before = {hashlib.sha256(t.numpy().tobytes()).digest() for file in known.values() for t in file.values()}
    return sum(
        t.nbytes for file in tensors.values() for t in file.values() if hashlib.sha256(t.numpy().tobytes()).digest() not in before
    )


def _repeated(rows: list[tuple[str, str]], count: int) -> list[tuple[int, tuple[str, str]]]:
    return [(number, rows[number % len(rows)]) for number in range(count)]
