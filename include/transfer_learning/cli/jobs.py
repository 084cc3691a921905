"""``transfer-learning run`` and ``init-dags``."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

from transfer_learning.cli.command import Answer, printing
from transfer_learning.errors import BadInput


def add(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands that need no store."""
    run = commands.add_parser("run", parents=[shared], help="run one job on folders, without a store")
    run.add_argument("job", type=Path, metavar="JOB.json")
    run.set_defaults(command=run_job)
    init = commands.add_parser("init-dags", parents=[shared], help="write the shipped DAGs into a folder, to be changed there")
    init.add_argument("folder", type=Path)
    init.set_defaults(command=printing(init_dags))


def init_dags(arguments: argparse.Namespace) -> Answer:
    """Copy the shipped DAGs into a folder; a file that was changed there is never overwritten."""
    sources, folder = sorted(_recipes().glob("*.py")), arguments.folder
    changed = [s.name for s in sources if (folder / s.name).exists() and (folder / s.name).read_bytes() != s.read_bytes()]
    if changed:
        raise BadInput("FILE_EXISTS", f"holds another {', '.join(changed)}", "name another folder, or rename yours", file=folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [str(shutil.copyfile(source, folder / source.name)) for source in sources]
    return Answer(written, "\n".join(f"Wrote {path}" for path in written))


def run_job(arguments: argparse.Namespace) -> int:
    """Run one job in this process and return its exit code; with ``--json`` the result file is printed last."""
    from transfer_learning import run

    code = run.main([str(arguments.job)])
    result = arguments.job.with_name("result.json")
    if arguments.json and result.exists():
        sys.stdout.write(result.read_text(encoding="utf-8") + "\n")
    return code


def _recipes() -> Path:
    """Return the folder of the shipped DAGs: package data in a wheel, ``dags/`` in a checkout. Imports nothing."""
    package = importlib.util.find_spec("airflow_transfer_learning")
    places = [Path(place) / "recipes" for place in (package.submodule_search_locations or ())] if package else []
    for place in (*places, Path(__file__).parents[3] / "dags"):
        if place.is_dir():
            return place
    raise BadInput("NO_RECIPES", "this installation holds no DAGs", "install airflow-provider-transfer-learning again")
