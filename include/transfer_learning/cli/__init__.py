"""``transfer-learning``: the store and single jobs from a terminal. Needs no Airflow.

Data go to standard output, as a table or with ``--json`` as one JSON document; an error is one line on standard error, with the
exit code of ``errors.py``. One file per noun.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from transfer_learning.cli import garbage, jobs, models
from transfer_learning.cli.command import ROOT_VARIABLE, Parser, fail
from transfer_learning.errors import TransferLearningError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    try:
        arguments = build_parser().parse_args(argv)
        code = int(arguments.command(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read along, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except TransferLearningError as error:
        return fail(str(error), error.exit_code)
    except Exception as error:  # never a traceback: those are for the tests of this project
        return fail(f"INTERNAL {type(error).__name__}: {error}", TransferLearningError.exit_code)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; each command's function is its default for ``command``."""
    parser = Parser(prog="transfer-learning", description="Models, their versions and single jobs, from a terminal.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON document")
    in_store = Parser(add_help=False, parents=[shared])
    in_store.add_argument("--root", help=f"s3://bucket/prefix or file:///path; default: ${ROOT_VARIABLE}")
    models.add(commands, in_store)
    garbage.add(commands, in_store)
    jobs.add(commands, shared)
    return parser
