"""What every command is made of: arguments in, an answer out."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from transfer_learning.errors import BadInput, TransferLearningError, one_line
from transfer_learning.store import Store, documents, probe

ROOT_VARIABLE = "TRANSFER_LEARNING_ROOT"


class Answer(NamedTuple):
    """What a command found.

    Attributes:
        data: what ``--json`` prints.
        text: what is printed without it.
        problems: what kept it from finding more; each is a line on standard error, and the highest exit code is the command's.
    """

    data: Any
    text: str
    problems: Sequence[TransferLearningError] = ()


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, like any other bad input."""

    def error(self, message: str) -> NoReturn:
        raise BadInput("USAGE", message, f"see `{self.prog} --help`")


def printing(command: Callable[[argparse.Namespace], Answer]) -> Callable[[argparse.Namespace], int]:
    """Return a command that prints the answer and exits with 0, or with the code of what kept it from finding more."""

    def run(arguments: argparse.Namespace) -> int:
        answer = command(arguments)
        sys.stdout.write((json.dumps(answer.data, indent=1, ensure_ascii=False) if arguments.json else answer.text) + "\n")
        sys.stdout.flush()  # first what there is
        return max([fail(str(problem), problem.exit_code) for problem in answer.problems], default=0)

    return run


def fail(message: str, code: int) -> int:
    """Say on standard error what is wrong, in one line, and return the exit code."""
    sys.stderr.write(f"{one_line(message)}\n")
    return code


def open_store(arguments: argparse.Namespace) -> Store:
    """Return the store that ``--root`` or the environment names.

    Raises:
        BadInput: neither does, or it is of a later release.
    """
    root = arguments.root or os.environ.get(ROOT_VARIABLE)
    if not root:
        raise BadInput("NO_ROOT", "nobody said where the store is", f"pass --root s3://bucket/prefix, or set {ROOT_VARIABLE}")
    store = Store.open(root)
    marker = documents.read(store.objects, probe.KEY)
    if marker is not None and marker.body.get("layout") != probe.LAYOUT:
        store.check()  # says which layout it knows
    return store


def actor() -> str:
    """Return who is asking, for the records."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return f"uid {os.getuid()}"
