"""An operator in a process of its own, as a worker runs it: to be killed, or to run beside another."""

from __future__ import annotations

import airflow_env  # noqa: F401  first of all

# isort: split
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.forkserver import ensure_running
from typing import Any, TypeVar
from unittest import mock

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airflow_task import Task
from airflow_transfer_learning.hooks.model_store import ModelStoreHook
from learning.store.faults import FaultyObjectStore
from transfer_learning.store import Store
from transfer_learning.store.object_store import ObjectStore

T = TypeVar("T")

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])  # Airflow takes longer to import than most tasks to run


@dataclasses.dataclass(frozen=True, slots=True)
class Death:
    """When the process kills itself."""

    write: int
    """At its n-th write to the store, from 1; leases and checkpoints, which come when they like, do not count."""
    after: bool = False
    """When the write is done, instead of before it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How a try ended that was not killed."""

    state: str
    """``success``, ``skipped``, ``up_for_retry`` or ``failed``."""
    result: Any
    """What goes to XCom, or the one line."""
    events: list[dict[str, Any]]
    """What the asset event of each outlet tells."""
    writes: int
    """To the store; see ``Death``."""


class OperatorProcess:
    """One try of one task. What the task keeps for its next try is lost with it, as when the task is cleared.

    Args:
        operator: its class.
        options: what it is built with.
        environment: connections and settings of its Airflow.
        task: the run, and the task's own state.
        death: when it kills itself, if ever.
    """

    def __init__(
        self,
        operator: type[BaseOperator],
        options: dict[str, Any],
        environment: dict[str, str],
        task: Task,
        death: Death | None = None,
    ) -> None:
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
            ensure_running()
        self._answer, theirs = PROCESSES.Pipe(duplex=False)
        self._process = PROCESSES.Process(target=_run, args=(theirs, operator, options, environment, task, death))
        self._process.start()
        theirs.close()

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        self._process.kill()

    def outcome(self) -> Outcome | None:
        """Wait for its end; None when it was killed."""
        with self._answer:
            try:
                outcome = self._answer.recv()
            except EOFError:
                outcome = None
        self._process.join()
        assert (outcome is None) == (self._process.exitcode == -signal.SIGKILL), self._process.exitcode
        self._process.close()
        return outcome


class MortalObjectStore(FaultyObjectStore):
    """Counts writes, and ends the process at one of them."""

    def __init__(self, inner: ObjectStore, death: Death | None) -> None:
        super().__init__(inner)
        self.writes = 0
        self._death = death
        self._one_at_a_time = threading.Lock()

    def around(self, number: int, name: str, call: Callable[[], T], *, writes: bool, conditional: bool) -> T:
        if not writes or " checkpoints/" in name:
            return call()
        with self._one_at_a_time:
            self.writes += 1
            due = self._death is not None and self._death.write == self.writes
            if due and not self._death.after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call()
            finally:
                if due:
                    os.kill(os.getpid(), signal.SIGKILL)


def _run(
    answer: Connection,
    operator: type[BaseOperator],
    options: dict[str, Any],
    environment: dict[str, str],
    task: Task,
    death: Death | None,
) -> None:
    os.environ |= environment
    opened: list[MortalObjectStore] = []
    open_store = ModelStoreHook.get_conn

    def mortal(hook: ModelStoreHook) -> Store:
        opened.append(MortalObjectStore(open_store(hook).objects, death))
        return Store(opened[-1])

    ModelStoreHook.get_conn = mortal
    built = operator(**options)
    context = task.context(built)
    try:
        task.render(built, context)
        state, result = "success", built.execute(context)
    except AirflowSkipException as skip:
        state, result = "skipped", str(skip)
    except AirflowFailException as error:
        state, result = "failed", str(error)
    except AirflowException as error:
        state, result = "up_for_retry", str(error)
    events = [context["outlet_events"][asset].extra for asset in built.outlets]
    answer.send(Outcome(state, result, events, sum(store.writes for store in opened)))
