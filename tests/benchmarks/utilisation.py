"""How much of what the device can do is reached: tokens a second, and the share of its measured matrix-product ceiling.

That share is model FLOPs utilisation (Chowdhery et al. 2022, appendix B) with the ceiling measured here in place of a data sheet's:
real tokens alone count, and work that is not done again counts as none. Each figure is the difference of two runs, so that the
start of the library and the loading of the model cancel out.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from benchmarks.corpora import articles, write_parts
from benchmarks.runners import BASE, DEVICE, Bench
from benchmarks.table import Row
from transfer_learning.blocks.language.utilisation import forward_flops
from transfer_learning.specs import FeatureSpec, FineTuneSpec

ROWS, TIMES = 480, {"cpu": 1, "cuda": 200}[DEVICE]
"""Articles, and how often each is taken; an accelerator is through with few of them before it can be timed."""

PRODUCT = {"cpu": 2048, "cuda": 8192}[DEVICE]
"""Rows and columns of the matrices that the ceiling is measured with."""

FORWARD, FORWARD_AND_BACKWARD = 1, 3
"""Passes over the weights; the backward one computes gradients of inputs and of weights."""


def of_extraction(bench: Bench, pairs: int) -> list[Row]:
    """Features of articles: all rows against half of them."""
    corpus = articles(ROWS, 0)
    half, whole = (_folder(bench, part) for part in (corpus.train[: ROWS // 2], corpus.train))

    def seconds(folder: Path) -> float:
        spec = FeatureSpec(max_length=256)
        return float(bench.stage("feature_extract", spec, {"base": [BASE], "train": [folder]}).metrics["seconds"])

    measured = [(seconds(whole) - seconds(half), _matrix_product_rate()) for _ in range(pairs)]
    return [_share("extraction", corpus.name, corpus.train[ROWS // 2 :], FORWARD, measured, wanted=0.6)]


def of_fine_tuning(bench: Bench, pairs: int) -> list[Row]:
    """Every weight on articles: two epochs against one."""
    corpus = articles(ROWS, 0)
    folder = _folder(bench, corpus.train)

    def seconds(epochs: int) -> float:
        spec = FineTuneSpec(strategy="full", max_length=256, epochs=epochs, batch_size=16)
        return float(bench.stage("fine_tune", spec, {"base": [BASE], "train": [folder]}).metrics["seconds"])

    measured = [(seconds(2) - seconds(1), _matrix_product_rate()) for _ in range(pairs)]
    return [_share("full fine-tuning", corpus.name, corpus.train, FORWARD_AND_BACKWARD, measured, wanted=None)]


def _folder(bench: Bench, rows: list[tuple[str, str]]) -> Path:
    """Write some rows, each as often as this device needs, told apart by a number at their end."""
    repeated = [(f"{text} {number}" if number else text, label) for number in range(TIMES) for text, label in rows]
    return write_parts(bench.new_folder() / "train", repeated)


def _share(
    what: str, corpus: str, rows: list[tuple[str, str]], passes: int, measured: list[tuple[float, float]], wanted: float | None
) -> Row:
    """Return the line for work on some rows, of which each measurement gives the seconds and the ceiling of the moment."""
    texts = [text for text, _ in rows]
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(BASE)(texts, truncation=True, max_length=256)["input_ids"]]
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(BASE), add_pooling_layer=False)
    forward = sum(forward_flops(model, length) for length in lengths)
    shares = [TIMES * passes * forward / seconds / ceiling for seconds, ceiling in measured]
    seconds, ceiling = (statistics.median(column) for column in zip(*measured, strict=True))
    tokens = TIMES * sum(lengths) / seconds
    return Row(
        comparison=f"share of the matrix-product ceiling, {what} ({tokens:,.0f} tokens a second, {DEVICE})",
        corpus=corpus,
        ours=TIMES * passes * forward / seconds,
        peer=ceiling,
        ratio=statistics.median(shares),
        interval=(min(shares), max(shares)),
        wanted="reported" if wanted is None else f"{wanted:.0%}",
        holds=None if wanted is None else statistics.median(shares) >= wanted,
        runs=len(measured),
    )


def _matrix_product_rate() -> float:
    """Return the best rate of one large bf16 product, floating point operations a second."""
    a, b = torch.randn(2, PRODUCT, PRODUCT, device=DEVICE).bfloat16()
    best = float("inf")
    for _ in range(20):
        started = time.monotonic()
        float((a @ b)[0, 0])  # read, so that it was computed
        best = min(best, time.monotonic() - started)
    return float(2 * PRODUCT**3 / best)
