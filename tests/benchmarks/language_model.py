"""Masked language modelling on articles: our stage against ``Trainer`` with its language-modelling collator, from the same weights.

MiniLM as shipped has no head that predicts tokens. Both sides start from one that has: a short pretraining on other articles gave
it to them, so that neither the warm-up of a new head nor its luck is in the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling

from benchmarks.corpora import articles, write_parts
from benchmarks.runners import BASE, DEVICE, Bench
from benchmarks.table import Row, means, not_above, throughput
from transfer_learning.jobs import JobResult
from transfer_learning.specs import PretrainSpec

BLOCK, BATCH_SIZE, RATE = 128, 32, 1e-4
FIRST_ARTICLES, JUDGED_ARTICLES = 160, 200
PILOT_STEPS = {"cpu": 8, "cuda": 200}[DEVICE]
"""Of the peer, to learn how many it can do in a time: more where the first ones are for loading kernels."""


def language_model(bench: Bench, pairs: int, read: int) -> list[Row]:
    """Tokens a second while all weights train, and the loss on held-out articles after the same time.

    Ours goes through the articles once; the peer gets the number of steps that take as long, each with a schedule of its own
    length. A token is one of the text: what each side adds at its ends is not counted.

    Args:
        bench: runs both.
        pairs: number of runs of each, with a seed of their own.
        read: number of articles.
    """
    corpus = articles(FIRST_ARTICLES + read, 0)
    first, rest = corpus.train[:FIRST_ARTICLES], corpus.train[FIRST_ARTICLES:]
    held_out = [text for text, _ in corpus.test[:JUDGED_ARTICLES]]
    texts = [text for text, _ in rest]
    tokens = _tokens(texts)
    start = _pretrain(bench, BASE, write_parts(bench.new_folder() / "train", first), 0).out / "model"
    folder = write_parts(bench.new_folder() / "train", rest)
    pilot = _peer(bench, start, texts, 0, PILOT_STEPS)
    overhead, pace = pilot["seconds"] - pilot["training_seconds"], pilot["training_seconds"] / PILOT_STEPS
    rates, losses, seconds = [], [], []
    for seed in range(pairs):
        ours = _pretrain(bench, start, folder, seed)
        steps = max(1, round((ours.metrics["seconds"] - overhead) / pace))
        peer = _peer(bench, start, texts, seed, steps)
        pace = peer["training_seconds"] / steps
        rates.append((tokens / _training_seconds(ours.metrics), peer["tokens"] / peer["training_seconds"]))
        seconds.append((ours.metrics["seconds"], peer["seconds"]))
        losses.append((masked_loss(ours.out / "model", held_out), masked_loss(peer["model"], held_out)))
    name = f"articles, {read} unlabelled"
    what = f"held-out loss of masked_lm at equal time vs Trainer (before {masked_loss(start, held_out):.3f}; seconds {means(seconds)})"
    return [
        throughput("tokens a second of masked_lm vs Trainer and its language-modelling collator", name, rates, 1.3),
        not_above(what, name, losses),
    ]


def _pretrain(bench: Bench, base: Path, folder: Path, seed: int) -> JobResult:
    spec = PretrainSpec(max_length=BLOCK, epochs=1, batch_size=BATCH_SIZE, learning_rate=RATE, seed=seed)
    return bench.stage("pretrain", spec, {"base": [base], "train": [folder]})


def _training_seconds(metrics: Mapping[str, Any]) -> float:
    """Return how long the steps alone took; the pace that is told counts the last one, which has fewer blocks, as whole."""
    blocks_per_second = metrics["tokens_per_second"] * metrics["blocks"] / metrics["tokens"]
    return float(metrics["steps"] * BATCH_SIZE / blocks_per_second)


def _peer(bench: Bench, base: Path, texts: list[str], seed: int, steps: int) -> dict[str, Any]:
    model = bench.new_folder() / "model"
    job: dict[str, Any] = {"base": str(base), "save": str(model), "texts": texts, "seed": seed, "steps": steps}
    return bench.peer("language_model", max_length=BLOCK, batch_size=BATCH_SIZE, rate=RATE, **job) | {"model": model}


def _tokens(texts: list[str]) -> int:
    """Return the tokens of some texts, without special ones."""
    return sum(map(len, AutoTokenizer.from_pretrained(BASE)(texts, add_special_tokens=False)["input_ids"]))


def masked_loss(folder: Path, texts: list[str]) -> float:
    """Judge a published folder by plain transformers: mean cross-entropy of masked tokens, the same ones for every folder.

    Each text stands alone, cut to one block: neither side's way to fill blocks is what is judged.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    collate = DataCollatorForLanguageModeling(tokenizer, seed=0)
    total, count = 0.0, 0
    for start in range(0, len(texts), BATCH_SIZE):
        rows = tokenizer(texts[start : start + BATCH_SIZE], truncation=True, max_length=BLOCK)
        batch = collate([{"input_ids": ids} for ids in rows["input_ids"]])
        hidden = batch["labels"] >= 0
        with torch.inference_mode():
            states = model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            logits = model.cls(states[hidden])
        total += float(functional.cross_entropy(logits, batch["labels"][hidden], reduction="sum"))
        count += int(hidden.sum())
    return total / count
