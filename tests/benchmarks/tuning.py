"""Accuracy without tuning: our settings as they come against the best of the peers' tuned ones, and the time to get there."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from benchmarks.corpora import Corpus, headlines
from benchmarks.runners import Bench
from benchmarks.table import Row, not_worse, speed

RATES, EPOCHS = (5e-5, 1e-4, 2e-4), (2, 4, 10)

OURS: dict[str, dict[str, Any]] = {"full": {}, "top_layers": {"unfreeze_blocks": 2}, "linear_probe": {}}
DRAWS = {"linear_probe": 5}
"""Draws that settle a comparison whose difference is several points, where others take more."""

JUDGED_ON = 1500
"""Test rows of the headlines here, where a difference of one point is to be told: all that 320 labels leave."""

FROZEN = {"full": 0, "top_layers": 4, "linear_probe": 6}
"""How many of the base's six blocks each of our strategies leaves as they are."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of the best configured ``Trainer``."""

    frozen: int
    rate: float
    epochs: int


@dataclasses.dataclass(frozen=True)
class Goal:
    """A peer's accuracy that is to be reached."""

    name: str
    peer: str
    accuracy: float
    """Mean over the draws."""
    job: Callable[[int], dict[str, Any]]
    """Returns what the peer is asked with a seed."""


class Grid:
    """The peer's accuracies on draws of a corpus, by setting; each is run once.

    Args:
        bench: runs them, several at a time: what counts is how right they are, not how fast.
        make: returns the corpus of a draw.
    """

    def __init__(self, bench: Bench, make: Callable[[int], Corpus]) -> None:
        self._bench, self._make = bench, make
        self._found: dict[tuple[Point, int], float] = {}

    def run(self, points: Iterable[Point], seeds: Iterable[int]) -> None:
        """Run what was not run yet."""
        new = [key for key in itertools.product(points, seeds) if key not in self._found]
        peers = [lambda key=key: self._bench.judged_peer(corpus=self._make(key[1]), **trainer(*key)) for key in new]
        for key, result in zip(new, self._bench.side_by_side(peers), strict=True):
            self._found[key] = result["accuracy"]

    def accuracies(self, point: Point, seeds: Collection[int]) -> list[float]:
        """Return a setting's accuracies in the order of the draws."""
        return [self._found[point, seed] for seed in seeds]

    def best(self, frozen: Collection[int], seeds: Collection[int], count: int = 1) -> list[Point]:
        """Return the settings with the highest means over these draws, of those that were run on all of them."""
        run = {point for point, _ in self._found if point.frozen in frozen}
        run = {point for point in run if all((point, seed) in self._found for seed in seeds)}
        return sorted(run, key=lambda point: (-statistics.mean(self.accuracies(point, seeds)), point.epochs, point.rate))[:count]


def trainer(point: Point, seed: int) -> dict[str, Any]:
    """Return the best configured ``Trainer`` under one setting, as the peers know it."""
    return {"task": "trainer", "best": True, "batch_size": 16, "seed": seed, **dataclasses.asdict(point)}


def search(grid: Grid, seeds: Collection[int], *, every: bool) -> None:
    """Run the grid on some draws: every point of it, or the rates at 4 epochs and then the other epochs at the best rate."""
    for frozen in FROZEN.values():
        if every:
            grid.run((Point(frozen, rate, epochs) for rate in RATES for epochs in EPOCHS), seeds)
        else:
            grid.run((Point(frozen, rate, 4) for rate in RATES), seeds)
            grid.run((Point(frozen, grid.best((frozen,), seeds)[0].rate, epochs) for epochs in EPOCHS), seeds)


def tuned_trainer(
    bench: Bench, make: Callable[[int], Corpus], wanted: float, *, draws: int, searched: int, every: bool, finalists: int
) -> Iterator[Row]:
    """Our defaults against the best of the peer's grid over the same frozen blocks, and the time to the best run's accuracy.

    Args:
        bench: runs both.
        make: returns the corpus of a draw.
        wanted: times as fast.
        draws: number of draws that both are judged on; fewer for what ``DRAWS`` names.
        searched: number of draws that the grid is searched on.
        every: whether every point of the grid is run on these.
        finalists: how many of the best of the search are run on all draws, where the best of them counts.
    """
    grid = Grid(bench, make)
    seeds = {strategy: range(min(draws, DRAWS.get(strategy, draws))) for strategy in OURS}
    search(grid, range(searched), every=every)

    def final(frozen: Collection[int], seeds: range) -> Point:
        grid.run(grid.best(frozen, range(searched), finalists), seeds)
        return grid.best(frozen, seeds)[0]

    best = {strategy: final((FROZEN[strategy],), seeds[strategy]) for strategy in ("full", "linear_probe")}
    target = final(FROZEN.values(), range(draws))
    ours = {
        strategy: bench.accuracies([make(seed) for seed in seeds[strategy]], strategy=strategy, **settings)
        for strategy, settings in OURS.items()
    }
    for strategy, point in best.items():
        pairs = list(zip(ours[strategy], grid.accuracies(point, seeds[strategy]), strict=True))
        yield not_worse(f"{strategy} as it comes vs best of the grid ({_name(point)})", make(0).name, pairs)
    accuracy = statistics.mean(grid.accuracies(target, range(draws)))
    goal = Goal("the best accuracy of the grid", _name(target), accuracy, functools.partial(trainer, target))
    yield _time_to(bench, make, goal, ours, wanted)


def _time_to(bench: Bench, make: Callable[[int], Corpus], goal: Goal, ours: Mapping[str, list[float]], wanted: float) -> Row:
    """Time our fastest strategy that is as right as a peer; our best one where none is.

    Args:
        bench: runs both, three times alternately.
        make: returns the corpus of a draw.
        goal: what is to be reached.
        ours: accuracies by strategy.
        wanted: times as fast.
    """
    means = {strategy: statistics.mean(found) for strategy, found in ours.items()}
    reaching = [name for name, accuracy in means.items() if accuracy >= goal.accuracy] or [
        max(means, key=lambda name: means[name])
    ]
    times: dict[str, list[tuple[float, float]]] = {}
    for seed in range(3):
        seconds = bench.peer(corpus=make(seed), **goal.job(seed))["seconds"]
        for name in reaching:
            run = bench.fine_tune(make(seed), strategy=name, seed=seed, **OURS[name])
            times.setdefault(name, []).append((run["seconds"], seconds))
    fastest = min(times, key=lambda name: statistics.median(ours for ours, _ in times[name]))
    what = f"time to {goal.name} ({fastest} {means[fastest]:.3f}, {goal.peer} {goal.accuracy:.3f})"
    row = speed(what, make(0).name, times[fastest], wanted)
    return dataclasses.replace(row, holds=bool(row.holds and means[fastest] >= goal.accuracy))


def _name(point: Point) -> str:
    return f"{point.frozen} blocks frozen, {point.rate:g}, {point.epochs} epochs"


def few_labels(bench: Bench, draws: Mapping[int, int]) -> Iterator[Row]:
    """The strategies as they come against SetFit: accuracy, and the time of what is as right.

    Args:
        bench: runs both.
        draws: how many, by the number of labels a class.
    """
    for labels, seeds in draws.items():

        def make(seed: int, labels: int = labels) -> Corpus:
            return headlines(5 * labels, seed, JUDGED_ON)

        corpora = [make(seed) for seed in range(seeds)]
        peers = [functools.partial(bench.judged_peer, corpus=corpus, **_setfit(seed)) for seed, corpus in enumerate(corpora)]
        theirs = [run["accuracy"] for run in bench.side_by_side(peers)]
        ours = {strategy: bench.accuracies(corpora, strategy=strategy, **settings) for strategy, settings in OURS.items()}
        best = max(ours, key=lambda strategy: statistics.mean(ours[strategy]))
        what = f"{best}, the best of our three, vs SetFit, {labels} labels a class"
        yield not_worse(what, corpora[0].name, list(zip(ours[best], theirs, strict=True)))
        goal = Goal(f"the accuracy of SetFit with {labels} labels a class", "SetFit", statistics.mean(theirs), _setfit)
        yield _time_to(bench, make, goal, ours, 5)


def _setfit(seed: int) -> dict[str, Any]:
    return {"task": "setfit", "seed": seed}
