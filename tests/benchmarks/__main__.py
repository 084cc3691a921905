"""``python -m benchmarks``: every comparison with the peers, as a table and as ``tests/benchmarks/results.json``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import comparisons
from benchmarks.comparisons import Row
from benchmarks.corpora import articles, headlines
from benchmarks.curves import learning_curves
from benchmarks.nightly import nightly
from benchmarks.runners import Bench

RESULTS = Path(__file__).with_name("results.json")
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->"


def small(bench: Bench) -> list[Callable[[], list[Row]]]:
    """Return what takes some twenty minutes."""
    return [
        lambda: comparisons.full_fine_tuning(bench, 3, (lambda seed: headlines(320, seed),)),
        lambda: comparisons.cold_extraction(bench, 3),
        lambda: comparisons.incremental_extraction(bench, 3),
        lambda: comparisons.top_blocks(bench, 3),
        lambda: comparisons.uploaded_bytes(bench),
        lambda: comparisons.memory(bench),
        lambda: comparisons.ceiling(bench, 3),
    ]


def whole(bench: Bench) -> list[Callable[[], list[Row]]]:
    """Return everything: the small part first, then what needs the peers' grid and several seeds."""
    return [
        *small(bench),
        lambda: nightly(bench),
        lambda: comparisons.full_fine_tuning(bench, 3, (lambda seed: articles(480, seed),)),
        lambda: comparisons.continued(bench, 5),
        lambda: learning_curves(bench, 3),
        lambda: comparisons.few_labels(bench, 5),
        lambda: comparisons.defaults_and_time_to_accuracy(bench, 5, lambda seed: headlines(320, seed), 1.5),
        lambda: comparisons.defaults_and_time_to_accuracy(bench, 5, lambda seed: articles(480, seed), 4),
    ]


def main() -> None:
    """Run the comparisons, printing each line as it is known, and save them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--small", action="store_true", help="the short part")
    parser.add_argument("--peer-python", type=Path, required=True, help="interpreter of the peers' environment")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    started = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.peer_python)
        for compare in (small if given.small else whole)(bench):
            for row in compare():
                rows.append(row)
                print(line(row), flush=True)
                save(given.results, rows)
    show_in(README, json.loads(given.results.read_text()))
    print(f"{len(rows)} comparisons in {(time.monotonic() - started) / 60:.0f} minutes on {platform.machine()}")


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
        "Seconds, bytes, floating point operations a second, or accuracies; ratios are medians, with the lowest and highest pair."
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


if __name__ == "__main__":
    main()
