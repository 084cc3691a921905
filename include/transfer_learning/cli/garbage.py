"""``transfer-learning gc``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_learning.cli import text
from transfer_learning.cli.command import Answer, open_store, printing
from transfer_learning.errors import BadInput
from transfer_learning.specs import duration
from transfer_learning.store import garbage


def add(commands: Any, in_store: argparse.ArgumentParser) -> None:
    """Add the command."""
    about = "say what dead publishes, evaluations and jobs left in the store, and with --delete remove it"
    gc = commands.add_parser("gc", parents=[in_store], help=about, description=about)
    gc.add_argument("--older-than", default="P7D", help="leave alone what was written to since, ISO 8601; default: P7D")
    gc.add_argument("--delete", action="store_true", help="do it; without this nothing is changed")
    gc.set_defaults(command=printing(collect))


def collect(arguments: argparse.Namespace) -> Answer:
    """Delete what no version names, or say what that is."""
    older_than = duration(arguments.older_than, "--older-than")
    store = open_store(arguments)
    if arguments.delete:
        store.check()
    problems: list[BadInput] = []
    found = garbage.collect(store.objects, older_than=older_than, delete=arguments.delete, problems=problems)
    rows = [finding.to_dict() for finding in found]
    collected = {"older_than": arguments.older_than, "deleted": arguments.delete, "bytes": text.total(rows), "findings": rows}
    return Answer(collected, text.garbage(collected, store.objects.uri), problems)
