"""Batches through a model without gradients: on the processor each thread runs its own, on an accelerator all share one."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait

import torch

from transfer_learning.blocks.batching import Tokens, length_batches
from transfer_learning.blocks.train_loop import in_halves
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

Work = tuple[Sequence[int], "Future[torch.Tensor]"]


@dataclasses.dataclass(frozen=True, slots=True)
class Passes:
    """How batches run through a model without gradients.

    Args:
        device: where the model lies.
        arithmetic: returns the context to compute in; every thread enters one of its own.
    """

    device: str
    arithmetic: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext

    @contextlib.contextmanager
    def results(
        self, compute: Callable[[Sequence[int]], torch.Tensor], batches: Sequence[Sequence[int]], poll: Callable[[], None]
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
        with self.arithmetic():
            pass  # what it raises, it raises here and not in a thread
        threads = torch.get_num_threads()
        workers = threads if self.device == "cpu" and len(batches) >= BATCHES_TO_A_THREAD * threads else 1
        asked: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        ahead: deque[Work] = deque()
        later = iter(batches)

        def work() -> None:
            torch.get_num_threads()  # makes this thread take the number that was set
            with torch.inference_mode(), self.arithmetic():
                for rows, result in iter(asked.get, None):
                    if result.set_running_or_notify_cancel():
                        try:
                            result.set_result(in_halves(compute, rows))
                        except BaseException as error:
                            result.set_exception(error)

        def ask() -> None:
            for rows in itertools.islice(later, AHEAD * workers - len(ahead)):
                ahead.append((rows, Future()))
                asked.put(ahead[-1])

        def in_order() -> Iterator[torch.Tensor]:
            ask()
            while ahead:
                rows, result = ahead.popleft()
                poll()
                while wait([result], POLL_SECONDS).not_done:
                    poll()
                try:
                    found = result.result()
                except OutOfMemory:
                    wait([other for _, other in ahead])
                    with torch.inference_mode(), self.arithmetic():
                        found = in_halves(compute, rows)
                yield found
                ask()

        torch.set_num_threads(threads // workers)
        for _ in range(workers):
            threading.Thread(target=work, daemon=True).start()
        try:
            yield in_order()
        finally:
            for _, result in ahead:
                result.cancel()
            for _ in range(workers):
                asked.put(None)
            torch.set_num_threads(threads)


def batches_of(tokens: Tokens, device: str) -> list[list[int]]:
    """Return the rows of each batch in the order they are run: rows of one padded length, under a budget of tokens."""
    return length_batches(tokens.lengths, CUDA_TOKEN_BUDGET if device == "cuda" else TOKEN_BUDGET)
