"""Accuracy against labelled rows for several methods: points with intervals, a table, and what follows from it in words."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from transfer_learning.errors import BadInput
from transfer_learning.settings import canonical_json
from transfer_learning.specs import FineTuneSpec

WORDS, MAJORITY = "TF-IDF + logistic regression", "majority class"
BASELINES = {"tfidf": WORDS, "majority": MAJORITY}
"""Names by those of the verdict."""

OVER = "more than "

NOT_A_METHOD = ("strategy", "init_from", "train_rows", "seed", "task")
"""Settings that have their own place, or are the axis."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One method's result with one draw of the training rows."""

    method: str
    train_rows: int
    seed: int
    accuracy: float
    test_rows: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One method with one number of training rows."""

    method: str
    train_rows: int
    draws: int
    accuracy: float
    """Mean over the draws."""
    low: float
    high: float
    """The interval."""

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}]"


def read_cells(evaluated: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Return the results of all candidates, then those of the baselines, each draw of them once.

    Args:
        evaluated: one for each candidate: ``facts`` of its version's manifest, and its ``verdict``.

    Raises:
        BadInput: none, or verdicts on different test rows.
    """
    if not evaluated:
        raise BadInput("NO_VERDICTS", "there is no verdict to compare", "pass the output of the evaluations")
    tests = Counter(one["verdict"]["test"]["digest"] for one in evaluated)
    if len(tests) > 1:
        what = f"the verdicts are on {len(tests)} different sets of test rows"
        raise BadInput("OTHER_TEST_ROWS", what, "compare candidates that learned from one dataset")
    cells, baselines = [], {}
    for one, method in zip(evaluated, method_names([one["facts"] for one in evaluated]), strict=True):
        seed, metrics = int(one["facts"]["spec"]["seed"]), one["verdict"]["metrics"]
        rows, test_rows = int(one["facts"]["metrics"]["rows"]), int(metrics["candidate"]["rows"])
        cells.append(Cell(method, rows, seed, float(metrics["candidate"]["accuracy"]), test_rows))
        for key, name in BASELINES.items():
            if (found := metrics["baselines"][key]) is not None:
                baselines[name, rows, seed] = Cell(name, rows, seed, float(found["accuracy"]), test_rows)
    return [*cells, *baselines.values()]


def method_names(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what each candidate's method is called: its strategy, and what else tells it from the others.

    That is a start from scratch, another base model than most have, and settings where two of the same name differ in them.

    Args:
        candidates: facts of the manifests.
    """
    specs = [FineTuneSpec.from_dict(facts["spec"]) for facts in candidates]
    bases = [str(facts["base"].get("uri")) for facts in candidates]
    # The first of those that are equally common: rather one from elsewhere than one that was made for some of the candidates.
    usual = Counter(sorted(bases, key=lambda base: base.startswith("model://"))).most_common(1)[0][0]
    starts, others = [], []
    for spec, base in zip(specs, bases, strict=True):
        from_scratch = " from scratch" if spec.init_from == "scratch" else ""
        on = "" if base == usual else f" on {base.removeprefix('model://')}"
        starts.append(f"{spec.strategy}{from_scratch}{on}")
        others.append({name: value for name, value in spec.canonical().items() if name not in NOT_A_METHOD})
    alike: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for start, settings in zip(starts, others, strict=True):
        alike[start].append(settings)
    return [", ".join([start, *_told_apart(own, alike[start])]) for start, own in zip(starts, others, strict=True)]


def _told_apart(own: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> list[str]:
    names = sorted({name for settings in every for name in settings})
    differ = [name for name in names if len({canonical_json(settings.get(name)) for settings in every}) > 1]
    return [f"{name} {own.get(name, 'as it comes')}" for name in differ]


def points(cells: Iterable[Cell], confidence: float) -> list[Point]:
    """Return one point for each method and number of rows, the best method with the most rows first, then by rows.

    The interval is Student's t over the draws where there are two or more; with one it is Wilson's (1927) over the test rows.
    """
    drawn: defaultdict[tuple[str, int], dict[int, Cell]] = defaultdict(dict)
    for cell in cells:
        drawn[cell.method, cell.train_rows][cell.seed] = cell
    found = [_point(method, rows, list(by_seed.values()), confidence) for (method, rows), by_seed in drawn.items()]
    best = {point.method: point.accuracy for point in sorted(found, key=lambda point: point.train_rows)}
    return sorted(found, key=lambda point: (-best[point.method], point.method, point.train_rows))


def _point(method: str, rows: int, cells: Sequence[Cell], confidence: float) -> Point:
    accuracies = [cell.accuracy for cell in cells]
    mean = statistics.mean(accuracies)
    if len(cells) == 1:
        test_rows = cells[0].test_rows
        interval = stats.binomtest(round(mean * test_rows), test_rows).proportion_ci(confidence, method="wilson")
        low, high = float(interval.low), float(interval.high)
    else:
        reach = float(stats.t.ppf((1 + confidence) / 2, len(cells) - 1)) * statistics.stdev(accuracies) / np.sqrt(len(cells))
        low, high = max(0.0, float(mean - reach)), min(1.0, float(mean + reach))
    return Point(method=method, train_rows=rows, draws=len(cells), accuracy=mean, low=low, high=high)


def table(curves: Sequence[Point]) -> str:
    """Return two tables as markdown: accuracies, and how many rows each method takes to reach the best one."""
    counts = sorted({point.train_rows for point in curves})
    known = {(point.method, point.train_rows): str(point) for point in curves}
    tops = [best(curves, count) for count in counts]
    accuracies = {method: [known.get((method, count), "") for count in counts] for method in _methods(curves)}
    needed = {method: [_needed(curves, method, top) for top in tops] for method in _methods(curves) if method != MAJORITY}
    return "\n\n".join(
        (
            _markdown("accuracy with so many labels", counts, accuracies),
            _markdown("labels to reach the best with so many", counts, needed),
        )
    )


def _markdown(title: str, counts: Sequence[int], lines: Mapping[str, Sequence[str]]) -> str:
    head = [f"| {title} | {' | '.join(f'{count:,}' for count in counts)} |", "|---|" + "---|" * len(counts)]
    return "\n".join([*head, *(f"| {method} | {' | '.join(values)} |" for method, values in lines.items())])


def sentences(curves: Sequence[Point]) -> list[str]:
    """Say for each number of labels which method is best, which cannot be told from it, and what the others take to reach it."""
    said = []
    for count in sorted({point.train_rows for point in curves}):
        top = best(curves, count)
        near = [p.method for p in curves if p.train_rows == count and p.method != top.method and p.high >= top.low]
        alike = f"; the intervals of {_and(near)} overlap with its own" if near else ""
        said.append(f"With {count:,} labels {top.method} is best, {top}{alike}.{_takes(curves, top)}")
    return said


def _takes(curves: Sequence[Point], top: Point) -> str:
    """Say how many labels the others take to reach a point, where any of them does."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for method in _methods(curves):
        if method not in (top.method, MAJORITY):
            groups[_needed(curves, method, top)].append(method)
    if all(needed.startswith(OVER) for needed in groups):
        return ""
    return f" For that, {'; '.join(f'{_and(names)} took {needed}' for needed, names in groups.items())}."


def best(curves: Sequence[Point], count: int) -> Point:
    """Return the point of the highest accuracy with so many rows."""
    return max((point for point in curves if point.train_rows == count), key=lambda point: point.accuracy)


def _methods(curves: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.method for point in curves))


def _needed(curves: Sequence[Point], method: str, target: Point) -> str:
    """Return the fewest rows with which a method is at least as good on average."""
    own = sorted(point.train_rows for point in curves if point.method == method)
    enough = [p.train_rows for p in curves if p.method == method and p.accuracy >= target.accuracy]
    return f"{min(enough):,}" if enough else f"{OVER}{own[-1]:,}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
