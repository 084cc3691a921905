"""Batches without gradients: each thread of the processor runs its own, and nobody can tell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from transfer_learning.blocks import passes as passes_module
from transfer_learning.blocks.batching import Tokens
from transfer_learning.blocks.extraction import extract
from transfer_learning.blocks.passes import Passes, batches_of
from transfer_learning.errors import OutOfMemory, Stopped

pytestmark = pytest.mark.usefixtures("two_threads")

BATCHES = [[0, 1], [2, 3], [4], [5, 6], [7]]


def doubled(rows: Sequence[int]) -> torch.Tensor:
    return 2.0 * torch.tensor(rows)


def openmp_threads() -> int:
    """Return how many threads torch's next product here would take; its own function would set it first."""
    own = Path(torch.__file__).resolve().parent  # other packages bring an OpenMP of their own
    (found,) = (
        one["num_threads"]
        for one in threadpool_info()
        if one["user_api"] == "openmp" and Path(one["filepath"]).is_relative_to(own)
    )
    return int(found)


def run(compute: Any, batches: Sequence[Sequence[int]] = BATCHES, poll: Any = lambda: None, device: str = "cpu") -> list[Any]:
    with Passes(device).results(compute, batches, poll) as results:
        return [result.tolist() for result in results]


def test_results_come_in_the_order_of_the_batches_whichever_is_ready_first() -> None:
    def slow_at_first(rows: Sequence[int]) -> torch.Tensor:
        time.sleep(0.2 if 0 in rows else 0)
        return doubled(rows)

    assert run(slow_at_first) == [[2.0 * row for row in rows] for rows in BATCHES]


@pytest.mark.parametrize(("batches", "workers", "share"), [(BATCHES, 2, 1), (BATCHES[:3], 1, 2)])
def test_each_thread_runs_batches_of_its_own_where_there_are_enough(batches: list[list[int]], workers: int, share: int) -> None:
    together, seen = threading.Barrier(workers, timeout=20), set()

    def compute(rows: Sequence[int]) -> torch.Tensor:
        if rows[0] < 4:
            together.wait()  # passes only where as many batches are under way
        seen.add((threading.get_ident(), openmp_threads()))
        return doubled(rows)

    run(compute, batches)

    assert len({ident for ident, _ in seen}) == workers
    assert {threads for _, threads in seen} == {share}
    assert torch.get_num_threads() == 2


def test_every_thread_computes_in_the_arithmetic_that_is_asked_for() -> None:
    def compute(rows: Sequence[int]) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        return torch.ones(2, 2) @ torch.ones(2, len(rows))

    arithmetic = Passes("cpu", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    with arithmetic.results(compute, BATCHES, lambda: None) as results:
        assert {result.dtype for result in results} == {torch.bfloat16}


def test_what_a_batch_raises_is_raised_and_the_threads_are_given_back() -> None:
    def compute(rows: Sequence[int]) -> torch.Tensor:
        return doubled(rows) if 4 not in rows else torch.ones(1) @ torch.ones(2)

    with pytest.raises(RuntimeError, match="size"):
        run(compute)
    assert torch.get_num_threads() == 2


def test_whoever_leaves_does_not_wait_for_batches_under_way_and_no_other_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes_module, "POLL_SECONDS", 0.01)
    released, asked, begun = threading.Event(), [], []

    def compute(rows: Sequence[int]) -> torch.Tensor:
        begun.append(rows)
        released.wait(20)
        return doubled(rows)

    def poll() -> None:
        asked.append(None)
        if len(asked) == 3:  # twice while the first batch is waited for
            raise ZeroDivisionError

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        run(compute, poll=poll)
    assert time.monotonic() - started < 10
    released.set()
    time.sleep(0.5)  # whatever the threads still begin
    assert len(begun) == 2


def test_a_row_that_fits_only_with_nothing_beside_it_is_computed_in_the_end() -> None:
    under_way, beside = threading.Semaphore(1), threading.Barrier(2, timeout=20)
    first = [True]

    def compute(rows: Sequence[int]) -> torch.Tensor:
        alone = under_way.acquire(blocking=False)
        if first[0] and rows[0] < 4:
            beside.wait()
            first[0] = False
        if not alone:
            raise MemoryError
        time.sleep(0.05)
        under_way.release()
        return doubled(rows)

    assert run(compute, [[0], [2], [4], [6]]) == [[0.0], [4.0], [8.0], [12.0]]


def test_a_row_that_fits_nowhere_ends_it() -> None:
    def compute(rows: Sequence[int]) -> torch.Tensor:
        if 3 in rows:
            raise MemoryError
        return doubled(rows)

    with pytest.raises(OutOfMemory, match="a single row does not fit"):
        run(compute)


@pytest.mark.parametrize("done", range(8))
def test_extraction_goes_on_behind_any_row(done: int) -> None:
    order, computed, told = [row for rows in BATCHES for row in rows], [], []

    def compute(rows: Sequence[int]) -> torch.Tensor:
        computed.extend(rows)
        return doubled(rows)

    found = extract(
        compute, BATCHES, Passes("cpu"), lambda number, _: told.append(number), doubled(order[:done]) if done else None
    )

    assert found.tolist() == [2.0 * row for row in range(8)]
    assert sorted(computed) == order[done:]
    assert told[-1] == len(BATCHES) - 1
    assert told[0] == sum(sum(map(len, BATCHES[: number + 1])) <= done for number in range(len(BATCHES)))


def test_extraction_goes_on_from_what_it_told_whatever_the_order_of_the_batches() -> None:
    batches, kept = [[6, 1], [0, 7], [4], [5, 2], [3]], []

    def stop(number: int, so_far: Callable[[], torch.Tensor]) -> None:
        if number == 3:
            kept.append(so_far())
            raise Stopped("asked to")

    with pytest.raises(Stopped):
        extract(doubled, batches, Passes("cpu"), stop)
    found = extract(doubled, batches, Passes("cpu"), lambda number, _: None, kept[0])

    assert kept[0].tolist() == [12.0, 2.0, 0.0, 14.0, 8.0]
    assert found.tolist() == [2.0 * row for row in range(8)]


def test_the_longest_rows_run_first() -> None:
    lengths = np.array([5, 300, 40, 6, 300])
    tokens = Tokens(np.zeros(lengths.sum(), np.int32), None, np.concatenate([[0], np.cumsum(lengths)]), pad_id=0)

    assert batches_of(tokens, "cpu") == [[1, 4], [2], [0, 3]]
