"""What ``strategy="auto"`` loses against the best strategy in hindsight, on corpora that are like the base model's text and not."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.corpora import Corpus, articles, headlines, tabulated
from benchmarks.runners import Bench
from benchmarks.table import Row, reported

AUTO: dict[str, Any] = {"strategy": "auto"}

STRATEGIES: tuple[dict[str, Any], ...] = (
    {"strategy": "linear_probe"},
    {"strategy": "top_layers", "unfreeze_blocks": 2},
    {"strategy": "probe_then_fine_tune"},
    {"strategy": "full"},
    {"strategy": "gradual_unfreeze", "layer_decay": "discriminative", "schedule": "slanted_triangular"},
    {"strategy": "lora"},
)
"""Each as it comes, gradual unfreezing with the other two techniques of ULMFiT."""

ARTICLE_TOKENS = 128
"""Half of what the other comparisons read of an article: every strategy runs on each draw."""

CELLS = (
    ("headlines", 80), ("headlines", 320), ("articles", 80), ("articles", 480), ("newsgroups", 400), ("Reuters", 160),
    ("tweets by author", 80), ("tweets by author", 640), ("Slovenian opinions", 320), ("lines by speaker", 640),
)  # fmt: skip
"""Corpus and number of labels."""


def regret(bench: Bench, draws: int) -> Iterator[Row]:
    """Yield a line for each cell, then their mean, then the best strategy for those who always take the same.

    Hindsight flatters what it is compared with: the best of six means of a few draws is partly luck.

    Args:
        bench: runs everything, several runs at a time.
        draws: of the labelled rows of each cell.
    """
    autos: list[float] = []
    bests: list[float] = []
    fixed: dict[str, list[float]] = {settings["strategy"]: [] for settings in STRATEGIES}
    for name, labelled in CELLS:
        corpora = [_corpus(bench, name, labelled, draw) for draw in range(draws)]
        chosen, *others = _measure(bench, corpora)
        accuracies = {strategy: [run["accuracy"] for run in found] for strategy, found in zip(fixed, others, strict=True)}
        for strategy, found in accuracies.items():
            fixed[strategy].append(statistics.mean(found))
        best = max(accuracies, key=lambda strategy: statistics.mean(accuracies[strategy]))
        pairs = [(run["accuracy"], accuracy) for run, accuracy in zip(chosen, accuracies[best], strict=True)]
        choices = " and ".join(f"{what} {count}x" for what, count in Counter(_said(run["chose"]) for run in chosen).items())
        autos.append(statistics.mean(run["accuracy"] for run in chosen))
        bests.append(statistics.mean(accuracies[best]))
        yield reported(f"auto vs the best strategy in hindsight (chose {choices}; best {best})", corpora[0].name, pairs)
    every = f"{len({name for name, _ in CELLS})} corpora, {len(CELLS)} numbers of labels"
    yield reported("auto vs the best strategy in hindsight, mean", every, list(zip(autos, bests, strict=True)))
    same = max(fixed, key=lambda strategy: statistics.mean(fixed[strategy]))
    what = f"auto vs the best strategy for all of them (always {same})"
    yield reported(what, every, list(zip(autos, fixed[same], strict=True)))


def _corpus(bench: Bench, name: str, labelled: int, draw: int) -> Corpus:
    if name == "headlines":
        return headlines(labelled, draw)
    if name == "articles":
        name = f"articles of {ARTICLE_TOKENS} tokens, {labelled} labels"
        return dataclasses.replace(articles(labelled, draw), name=name, max_length=ARTICLE_TOKENS)
    return tabulated(bench.datasets, name, labelled, draw)


def _said(settings: dict[str, Any]) -> str:
    """Return what was chosen, such as ``linear_probe, layer 4``."""
    others = (f", {name} {value}" for name, value in settings.items() if name != "strategy")
    return "".join((settings["strategy"], *others))


def _measure(bench: Bench, corpora: Sequence[Corpus]) -> list[list[dict[str, Any]]]:
    """Return ``accuracy`` and ``chose``, the settings, for each draw: of ``AUTO``, then of each of ``STRATEGIES``."""
    draws = range(len(corpora))
    calls = [
        functools.partial(bench.judged, corpora[draw], draw, **settings) for settings in (AUTO, *STRATEGIES) for draw in draws
    ]
    found = bench.side_by_side(calls)
    return [found[start : start + len(draws)] for start in range(0, len(found), len(draws))]
