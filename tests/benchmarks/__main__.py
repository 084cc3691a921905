"""``python -m benchmarks``: every comparison with the peers, as a table and as ``tests/benchmarks/results.json``."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import comparisons, tuning, utilisation
from benchmarks.corpora import FEW_TEST_ROWS, articles, headlines
from benchmarks.curves import learning_curves
from benchmarks.language_model import language_model
from benchmarks.nightly import nightly
from benchmarks.regret import regret
from benchmarks.runners import Bench
from benchmarks.table import Row, line, save, show_in

RESULTS = Path(__file__).with_name("results.json")
README = Path(__file__).parents[2] / "README.md"
KEPT = Path(__file__).parents[2] / ".bench"

Comparisons = dict[str, Callable[[], Iterable[Row]]]


def small(bench: Bench) -> Comparisons:
    """Return the short part."""
    return {
        "full_headlines": lambda: comparisons.full_fine_tuning(
            bench, 3, lambda seed: headlines(320, seed, FEW_TEST_ROWS), epochs=4
        ),
        "extraction": lambda: comparisons.extraction(bench, 3),
        "uploaded_bytes": lambda: comparisons.uploaded_bytes(bench),
        "memory": lambda: comparisons.memory(bench),
        "utilisation": lambda: utilisation.of_extraction(bench, 3),
    }


def whole(bench: Bench) -> Comparisons:
    """Return the short part, then what needs several seeds; the curves come last, since many of their runs are kept by then."""
    headlines_grid = {"draws": 16, "searched": 2, "every": True, "finalists": 3}
    articles_grid = {"draws": 10, "searched": 1, "every": False, "finalists": 1}
    return small(bench) | {
        "nightly": lambda: nightly(bench),
        "training_utilisation": lambda: utilisation.of_fine_tuning(bench, 3),
        "top_blocks": lambda: comparisons.top_blocks(bench, 3),
        "full_articles": lambda: comparisons.full_fine_tuning(
            bench, 3, lambda seed: articles(480, seed, FEW_TEST_ROWS), epochs=1
        ),
        "few_labels": lambda: tuning.few_labels(bench, {8: 20, 16: 20, 64: 8}),
        "tuned_headlines": lambda: tuning.tuned_trainer(
            bench, lambda seed: headlines(320, seed, tuning.JUDGED_ON), 1.5, **headlines_grid
        ),
        "tuned_articles": lambda: tuning.tuned_trainer(bench, lambda seed: articles(480, seed), 4, **articles_grid),
        "learning_curves": lambda: learning_curves(bench, 3),
    }


def asked_for(bench: Bench) -> Comparisons:
    """Return what runs by its name alone: not about the speed of a retraining."""
    return {
        "language_model": lambda: language_model(bench, 3, read=480),
        "continued": lambda: comparisons.continued(bench, 5),
        "regret": lambda: regret(bench, 3),
    }


def main() -> None:
    """Run the comparisons, printing each line as it is known, and save them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--small", action="store_true", help="the short part")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="these comparisons alone")
    parser.add_argument("--peer-python", type=Path, required=True, help="interpreter of the peers' environment")
    parser.add_argument(
        "--kept", type=Path, default=KEPT, help="folder of single runs that an interrupted comparison goes on from"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    started = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        # Absolute, since tasks of Airflow run elsewhere; not resolved, since the link is what makes it the environment's.
        bench = Bench(Path(folder), given.peer_python.absolute(), given.kept)
        usual = (small if given.small else whole)(bench)
        known = usual | asked_for(bench)
        if unknown := set(given.only) - set(known):
            parser.error(f"no such comparison: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        for name in given.only or usual:
            began = time.monotonic()
            for row in known[name]():
                rows.append(row)
                print(line(row), flush=True)
                save(given.results, rows)
            print(f"{name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    show_in(README, json.loads(given.results.read_text()))
    print(f"{len(rows)} comparisons in {(time.monotonic() - started) / 60:.0f} minutes on {platform.machine()}")


if __name__ == "__main__":
    main()
