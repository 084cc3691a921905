"""Batches through a model without gradients: on the processor each thread runs its own, on an accelerator all share one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from itertools import islice

import torch

from transfer_learning.blocks.batching import Tokens, length_batches
from transfer_learning.blocks.memory import in_halves
from transfer_learning.errors import OutOfMemory

TOKEN_BUDGET = 1024
"""Padded tokens to one forward pass on one core: what lies between two layers then stays in that core's cache."""

CUDA_TOKEN_BUDGET = 65_536
"""On an accelerator, which small batches leave idle."""

BATCHES_TO_A_THREAD = 2
"""Fewer than this, and the threads share each batch: some of them would have nothing to do."""

AHEAD = 2
"""Batches to a thread that are under way or wait for it."""

POLL_SECONDS = 0.5

Compute = Callable[[Sequence[int]], torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Passes:
    """How batches run through a model without gradients.

    Args:
        device: where the model lies.
        arithmetic: returns the context to compute in; every batch enters one of its own.
    """

    device: str
    arithmetic: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext

    @contextlib.contextmanager
    def results(
        self, compute: Compute, batches: Sequence[Sequence[int]], poll: Callable[[], None]
    ) -> Iterator[Iterator[torch.Tensor]]:
        """Enter what yields the result of each batch, in their order, computed ahead of being asked for.

        On the processor each thread runs batches of its own, with the same bits as if all of them shared every batch, which takes
        a third longer (articles of 256 tokens, two cores). Whoever leaves early does not wait for batches that are under way.

        Args:
            compute: from row numbers to one result for each; called in several threads.
            batches: rows of equal padded length.
            poll: called before each batch, and twice a second while it is waited for; what it raises is raised.

        Raises:
            OutOfMemory: a single row does not fit, with nothing else under way.
        """
        threads = torch.get_num_threads()
        workers = threads if self.device == "cpu" and len(batches) >= BATCHES_TO_A_THREAD * threads else 1
        torch.set_num_threads(threads // workers)
        # Asking for the number makes a thread take the one that was set.
        pool = ThreadPoolExecutor(workers, initializer=torch.get_num_threads)
        try:
            yield self._in_order(pool, compute, batches, poll, AHEAD * workers)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            torch.set_num_threads(threads)

    def _in_order(
        self, pool: Executor, compute: Compute, batches: Sequence[Sequence[int]], poll: Callable[[], None], ahead: int
    ) -> Iterator[torch.Tensor]:
        later = iter(batches)
        asked: deque[tuple[Sequence[int], Future[torch.Tensor]]] = deque()
        while True:
            asked.extend((rows, pool.submit(self._result, compute, rows)) for rows in islice(later, ahead - len(asked)))
            if not asked:
                return
            rows, result = asked.popleft()
            poll()
            while wait([result], POLL_SECONDS).not_done:
                poll()
            try:
                found = result.result()
            except OutOfMemory:
                wait([other for _, other in asked])
                found = self._result(compute, rows)
            yield found

    def _result(self, compute: Compute, rows: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode(), self.arithmetic():
            return in_halves(compute, rows)


def batches_of(tokens: Tokens, device: str) -> list[list[int]]:
    """Return the rows of each batch in the order they are run: rows of one padded length, under a budget of tokens.

    The longest come first: what does not fit shows at once, and no thread begins a long batch when the others have ended.
    """
    return length_batches(tokens.lengths, CUDA_TOKEN_BUDGET if device == "cuda" else TOKEN_BUDGET)[::-1]
