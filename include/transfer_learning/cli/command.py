"""What every command is made of: arguments in, an answer out."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from transfer_learning.errors import BadInput
from transfer_learning.store import Store, documents, probe

ROOT_VARIABLE = "TRANSFER_LEARNING_ROOT"

Answer = tuple[Any, str]
"""What ``--json`` prints, and what is printed without it."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, like any other bad input."""

    def error(self, message: str) -> NoReturn:
        raise BadInput("USAGE", message, f"see `{self.prog} --help`")


def printing(command: Callable[[argparse.Namespace], Answer]) -> Callable[[argparse.Namespace], int]:
    """Return a command that prints the answer and exits with 0."""

    def run(arguments: argparse.Namespace) -> int:
        data, text = command(arguments)
        sys.stdout.write((json.dumps(data, indent=1, ensure_ascii=False) if arguments.json else text) + "\n")
        return 0

    return run


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
