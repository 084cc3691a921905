"""A comparison as a line: on the terminal, in ``results.json`` and in the README."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from scipy import stats

BEGIN, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->"

MARGIN = 0.01
"""What an accuracy may lose and still be called not worse."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    comparison: str
    corpus: str
    ours: float
    peer: float
    ratio: float
    """Median over pairs of peer / ours for times, of ours / peer for rates; ours - peer for accuracies and losses; ours / peer for
    sizes and shares."""
    interval: tuple[float, float]
    """Lowest and highest of the pairs; for accuracies and losses the 95% interval of the paired difference."""
    wanted: str
    holds: bool | None
    """None where nothing was promised."""
    runs: int


def speed(what: str, corpus: str, pairs: list[tuple[float, float]], wanted: float) -> Row:
    """Return a line for pairs of seconds, ours and the peer's."""
    ratios = [peer / ours for ours, peer in pairs]
    ratio = statistics.median(ratios)
    ours, peer = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(
        comparison=what, corpus=corpus, ours=ours, peer=peer, ratio=ratio, interval=(min(ratios), max(ratios)),
        wanted=f"{wanted:g}x", holds=ratio >= wanted, runs=len(pairs),
    )  # fmt: skip


def throughput(what: str, corpus: str, pairs: list[tuple[float, float]], wanted: float) -> Row:
    """Return a line for pairs of rates, such as tokens a second."""
    row = speed(what, corpus, [(1 / ours, 1 / peer) for ours, peer in pairs], wanted)
    ours, peer = (statistics.median(side) for side in zip(*pairs, strict=True))
    return dataclasses.replace(row, ours=ours, peer=peer)


def not_worse(what: str, corpus: str, pairs: list[tuple[float, float]]) -> Row:
    """Return a line for pairs of accuracies: the lower end of the interval of the difference is above -1 point."""
    row = reported(what, corpus, pairs)
    return dataclasses.replace(row, wanted="not worse by 1 point", holds=row.interval[0] >= -MARGIN)


def not_above(what: str, corpus: str, pairs: list[tuple[float, float]]) -> Row:
    """Return a line for pairs of losses: the upper end of the interval of the difference is not above 0."""
    row = reported(what, corpus, pairs)
    return dataclasses.replace(row, wanted="not above", holds=row.interval[1] <= 0)


def reported(what: str, corpus: str, pairs: list[tuple[float, float]]) -> Row:
    """Return a line for pairs of accuracies or losses of which nothing was promised."""
    differences = [ours - peer for ours, peer in pairs]
    mean = statistics.mean(differences)
    half = float(stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(differences) / len(pairs) ** 0.5)
    ours, peer = (statistics.mean(side) for side in zip(*pairs, strict=True))
    return Row(
        comparison=what, corpus=corpus, ours=ours, peer=peer, ratio=mean, interval=(mean - half, mean + half),
        wanted="reported", holds=None, runs=len(pairs),
    )  # fmt: skip


def means(pairs: list[tuple[float, float]]) -> str:
    """Return the mean of each side, to be read."""
    return " and ".join(f"{statistics.mean(side):.3f}" for side in zip(*pairs, strict=True))


def line(row: Row) -> str:
    """Return a comparison as one line."""
    verdict = {True: "holds", False: "NOT REACHED", None: "reported"}[row.holds]
    low, high = row.interval
    return (
        f"{row.comparison} | {row.corpus} | ours {row.ours:.4g}, peer {row.peer:.4g} | {row.ratio:.3g} "
        f"({low:.3g} to {high:.3g}) | wanted {row.wanted} | {verdict}"
    )


def show_in(readme: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the table in the README."""
    caption = (
        "Seconds without the start of interpreters and their imports (a night: with everything), bytes, tokens or floating point "
        "operations a second, losses, or accuracies. A ratio is the median, with the lowest and highest pair; for accuracies and losses "
        "the difference and its 95% interval."
    )
    lines = [caption, "", "| comparison | corpus | ours | peer | ratio | wanted | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if row["comparison"].startswith("learning curve"):
            continue  # they are the picture
        low, high = row["interval"]
        verdict = {True: "holds", False: "**not reached**", None: "reported"}[row["holds"]]
        figures = f"{row['ours']:.4g} | {row['peer']:.4g} | {row['ratio']:.3g} ({low:.3g} to {high:.3g})"
        lines.append(f"| {row['comparison']} | {row['corpus']} | {figures} | {row['wanted']} | {verdict} |")
    text = readme.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    readme.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def save(path: Path, rows: list[Row]) -> None:
    """Write what is known so far; lines of comparisons that did not run stay as they were."""
    kept = json.loads(path.read_text()) if path.exists() else []
    new = [dataclasses.asdict(row) for row in rows]
    names = {(row["comparison"].split(" (")[0], row["corpus"]) for row in new}
    old = [row for row in kept if (row["comparison"].split(" (")[0], row["corpus"]) not in names]
    path.write_text(json.dumps([*new, *old], indent=1) + "\n")
