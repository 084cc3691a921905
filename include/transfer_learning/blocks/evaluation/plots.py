"""Pictures of verdicts and comparisons, for grey paper and colour-blind people too. Drawn without pyplot: no state is shared."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from transfer_learning.blocks.evaluation.learning_curves import BASELINES, Point
from transfer_learning.blocks.evaluation.metrics import Calibration

CANDIDATE, CHAMPION, INK = "#0072B2", "#E69F00", "#444444"
"""Blue and orange of Okabe & Ito, told apart by everyone; the champion's marks also differ in shape or hatching."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D00", "#000000")
"""Okabe & Ito's, with a darker yellow; markers tell apart what has the same one."""
MARKERS = "osD^vPX*<>hp"

MOST_CELLS = 20
"""A confusion matrix of more labels shows the most confused ones."""

MOST_BARS = 30

LONGEST_NAME, LONGEST_METHOD = 24, 44

DPI = 120


def draw_confusion(path: Path, confusion: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> None:
    """Draw a confusion matrix: shares of each true label by colour, counts by number.

    Args:
        path: the PNG to write.
        confusion: counts; rows are true labels, columns answers.
        labels: names in the order of both.
        title: stands above.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    kept = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    if len(kept) > MOST_CELLS:
        errors = counts.sum(axis=1) + counts.sum(axis=0) - 2 * counts.diagonal()
        kept = np.sort(kept[np.argsort(-errors[kept], kind="stable")[:MOST_CELLS]])
        title += f"\nthe {MOST_CELLS} labels with most errors, of {len(labels)}"
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown, cells = shares[np.ix_(kept, kept)], counts[np.ix_(kept, kept)]
    size = 2.6 + 0.62 * len(kept)
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown, cmap=colormaps["Blues"], vmin=0, vmax=1)
    for row, column in np.ndindex(shown.shape):
        if cells[row, column]:
            colour = "white" if shown[row, column] > 0.55 else INK
            axes.text(column, row, f"{cells[row, column]:,}", ha="center", va="center", color=colour)
    names = [_short(labels[i]) for i in kept.tolist()]
    axes.set_xticks(range(len(kept)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(kept)), [f"{name} ({counts[i].sum():,})" for name, i in zip(names, kept, strict=True)])
    axes.set(xlabel="answer", ylabel="true label (rows)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(1))
    bar.set_label("share of the true label's rows")
    bar.outline.set_visible(False)
    _save(figure, path)


def draw_calibration(path: Path, candidate: Calibration, champion: Calibration | None) -> None:
    """Draw reliability diagrams: how often answers of like probability are right, bins of equal mass.

    Args:
        path: the PNG to write.
        candidate: its calibration.
        champion: the champion's, or None.
    """
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    lows = []
    for name, colour, marker, figures in _both(candidate, champion):
        error = f"{figures.error:.3f} [{figures.low:.3f}, {figures.high:.3f}]"
        axes.plot(
            figures.confidence,
            figures.accuracy,
            color=colour,
            marker=marker,
            markersize=7,
            linewidth=1.8,
            label=f"{name}: calibration error {error}",
        )
        lows.append(min(*figures.confidence, *figures.accuracy))
    start = max(0.0, np.floor(10 * min(lows)) / 10 - 0.05)
    axes.set(xlim=(start, 1.02), ylim=(start, 1.02), xlabel="probability of the answer", ylabel="share of right answers")
    axes.set_title(f"Calibration (bins of {candidate.rows[0]:,} rows or one more)", loc="left", fontsize=11)
    axes.text(start + 0.02 * (1 - start), 0.985, "too cautious", color=INK, va="top", style="italic")
    axes.text(1.01, start + 0.02 * (1 - start), "too sure", color=INK, ha="right", style="italic")
    _plain(axes)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    _save(figure, path)


def draw_per_class(path: Path, candidate: Mapping[str, Any], champion: Mapping[str, Any] | None) -> None:
    """Draw F1 of each label that has test rows, the champion's bar below the candidate's.

    Args:
        path: the PNG to write.
        candidate: its metrics, with ``per_class``.
        champion: the champion's, or None.
    """
    labels = [name for name, figures in candidate["per_class"].items() if figures["rows"]]
    title = "F1 by label"
    if len(labels) > MOST_BARS:
        labels = sorted(labels, key=lambda name: candidate["per_class"][name]["f1"] or 0.0)[:MOST_BARS]
        title += f"\nthe {MOST_BARS} lowest of {len(candidate['per_class'])}"
    figure = Figure(figsize=(7, 1.6 + (0.62 if champion else 0.42) * len(labels)), layout="constrained")
    axes = figure.subplots()
    height = 0.38 if champion else 0.6
    for number, (name, colour, _, metrics) in enumerate(_both(candidate, champion)):
        values = [(metrics["per_class"].get(label) or {}).get("f1") for label in labels]
        places = np.arange(len(labels)) + (height * (number - 0.5) if champion else 0)
        hatch = "///" if number else None
        bars = [value or 0.0 for value in values]
        axes.barh(places, bars, height * 0.92, color=colour, label=name, hatch=hatch, edgecolor="white", linewidth=0)
        for place, value in zip(places, values, strict=True):
            text = "unknown label" if value is None else f"{value:.2f}"
            axes.text((value or 0.0) + 0.008, place, text, va="center", fontsize=9, color=INK)
    rows = [candidate["per_class"][label]["rows"] for label in labels]
    axes.set_yticks(range(len(labels)), [f"{_short(name)} ({n:,})" for name, n in zip(labels, rows, strict=True)])
    axes.set(xlim=(0, 1.08), xlabel="F1", ylabel="label (test rows)", ylim=(len(labels) - 0.4, -0.6))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_title(title, loc="left", fontsize=11)
    _plain(axes)
    axes.grid(axis="y", visible=False)
    if champion:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=2)
    _save(figure, path)


def draw_curves(path: Path, curves: Sequence[Point], title: str, confidence: float) -> None:
    """Draw accuracy against labelled rows, one line for each method, with an interval at each point.

    Args:
        path: the PNG to write.
        curves: the points, the best method first.
        title: stands above.
        confidence: of the intervals.
    """
    counts = sorted({point.train_rows for point in curves})
    methods = list(dict.fromkeys(point.method for point in curves))
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    axes = figure.subplots()
    trained = [method for method in methods if method not in BASELINES.values()]
    for number, method in enumerate(methods):
        # A little beside one another, so that no interval hides another one.
        shift = 1 + 0.012 * (number - (len(methods) - 1) / 2)
        colour = COLOURS[trained.index(method) % len(COLOURS)] if method in trained else None
        _draw_curve(axes, [point for point in curves if point.method == method], colour, MARKERS[number % len(MARKERS)], shift)
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set(xlabel="labelled training rows", ylabel=f"accuracy, with its {confidence:.0%} interval {_interval_over(curves)}")
    axes.set_title(title, loc="left", fontsize=11)
    _plain(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    _save(figure, path)


def _draw_curve(axes: Axes, own: Sequence[Point], colour: str | None, marker: str, shift: float) -> None:
    """Draw one method's line; without a colour it is grey and dashed."""
    axes.errorbar(
        [point.train_rows * shift for point in own],
        [point.accuracy for point in own],
        yerr=[[point.accuracy - point.low for point in own], [point.high - point.accuracy for point in own]],
        color=colour or INK,
        linestyle="solid" if colour else (0, (4, 3)),
        marker=marker,
        markersize=6,
        linewidth=1.6,
        elinewidth=0.9,
        label=_short(own[0].method, LONGEST_METHOD),
    )


def _interval_over(curves: Sequence[Point]) -> str:
    draws = {point.draws for point in curves}
    if draws == {1}:
        return "over the test rows"
    return f"over {max(draws)} draws of the rows" if len(draws) == 1 else "over draws of the rows, or else over the test rows"


def _both(candidate: Any, champion: Any) -> list[tuple[str, str, str, Any]]:
    drawn = [("candidate", CANDIDATE, "o", candidate)]
    return drawn if champion is None else [*drawn, ("champion", CHAMPION, "s", champion)]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _short(name: str, longest: int = LONGEST_NAME) -> str:
    """Cut a long label in its middle, and keep a dollar sign from starting a formula."""
    half = longest // 2
    cut = name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"
    return cut.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a label in a script that the font lacks shows boxes
        figure.savefig(path, dpi=DPI)
