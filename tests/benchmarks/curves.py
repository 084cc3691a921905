"""Learning curves: accuracy against labels for a bag of words, a probe and full fine-tuning, as rows and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.corpora import Corpus, articles, headlines
from benchmarks.runners import Bench
from benchmarks.table import Row, reported
from transfer_learning.blocks.evaluation.baselines import tfidf

PICTURE = Path(__file__).with_name("learning_curves.png")

CORPORA: dict[str, tuple[Callable[[int, int], Corpus], tuple[int, ...]]] = {
    "headlines": (headlines, (40, 80, 160, 320, 640, 1280)),
    "articles": (articles, (40, 160, 480)),
}
WORDS, STRATEGIES = "TF-IDF + logistic regression", ("linear_probe", "full")
METHODS = {WORDS: ("#444444", "^"), "linear_probe": ("#E69F00", "s"), "full": ("#0072B2", "o")}
"""Colour and marker of each; told apart in grey too."""

Curves = dict[str, dict[str, dict[int, list[float]]]]
"""Accuracies by corpus, method and number of labels, one for each draw."""


def learning_curves(bench: Bench, seeds: int) -> list[Row]:
    """Measure and draw; a row compares a method with the bag of words at one number of labels."""
    found: Curves = {}
    rows = []
    for name, (make, counts) in CORPORA.items():
        found[name] = {method: {} for method in METHODS}
        for count in counts:
            corpora = [make(count, seed) for seed in range(seeds)]
            words = found[name][WORDS][count] = [_bag_of_words(corpus) for corpus in corpora]
            for method in STRATEGIES:
                accuracies = found[name][method][count] = bench.accuracies(corpora, strategy=method)
                pairs = list(zip(accuracies, words, strict=True))
                rows.append(reported(f"learning curve, {method} vs TF-IDF", corpora[0].name, pairs))
            draw(PICTURE, found)
    return rows


def _bag_of_words(corpus: Corpus) -> float:
    texts, labels = (list(column) for column in zip(*corpus.train, strict=True))
    answers = tfidf(texts, labels, [text for text, _ in corpus.test])
    assert answers is not None
    return statistics.mean(answer == label for answer, (_, label) in zip(answers.answers, corpus.test, strict=True))


def draw(path: Path, curves: Curves) -> None:
    """Draw one panel for each corpus: means, and bars from the lowest to the highest draw."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (name, methods) in zip(panels, curves.items(), strict=True):
        for method, accuracies in methods.items():
            counts = sorted(accuracies)
            means = [statistics.mean(accuracies[count]) for count in counts]
            low = [mean - min(accuracies[count]) for mean, count in zip(means, counts, strict=True)]
            high = [max(accuracies[count]) - mean for mean, count in zip(means, counts, strict=True)]
            colour, marker = METHODS[method]
            axes.errorbar(counts, means, yerr=(low, high), color=colour, marker=marker, capsize=2, label=method)
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set(xlabel="labelled rows", title=f"BBC News {name}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on 500 test rows")
    panels[-1].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)
