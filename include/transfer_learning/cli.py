"""``transfer-learning``: the store and single jobs from a terminal. Needs no Airflow.

Data go to standard output, as a table or with ``--json`` as one JSON document; an error is one line on standard error, with the
exit code of ``errors.py``.
"""

from __future__ import annotations

import argparse
import getpass
import importlib.util
import json
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transfer_learning import cli_text
from transfer_learning.errors import BadInput, TransferLearningError, one_line
from transfer_learning.store import Store, documents, probe
from transfer_learning.store.aliases import Move
from transfer_learning.store.artifacts import size_text

ROOT_VARIABLE = "TRANSFER_LEARNING_ROOT"

Answer = tuple[Any, str]
"""What ``--json`` prints, and what is printed without it."""


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
        return _fail("interrupted", 130)
    except TransferLearningError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:  # never a traceback: those are for the tests of this project
        return _fail(f"INTERNAL {type(error).__name__}: {error}", TransferLearningError.exit_code)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; each command's function is its default for ``command``."""
    parser = _Parser(prog="transfer-learning", description="Models, their versions and single jobs, from a terminal.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = _Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON document")
    in_store = _Parser(add_help=False, parents=[shared])
    in_store.add_argument("--root", help=f"s3://bucket/prefix or file:///path; default: ${ROOT_VARIABLE}")
    _add_models(commands.add_parser("models", help="published models"), in_store)
    run = commands.add_parser("run", parents=[shared], help="run one job on folders, without a store")
    run.add_argument("job", type=Path, metavar="JOB.json")
    run.set_defaults(command=run_job)
    init = commands.add_parser("init-dags", parents=[shared], help="write the shipped DAGs into a folder, to be changed there")
    init.add_argument("folder", type=Path)
    init.set_defaults(command=_printing(init_dags))
    return parser


def _add_models(parser: argparse.ArgumentParser, in_store: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], Answer], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[in_store], help=text, description=text)
        added.add_argument("model", nargs="?" if name == "list" else None, help="name of the model")
        added.set_defaults(command=_printing(command))
        return added

    version = "a number, an alias or 'latest'"
    add("list", list_models, "list versions, of one model or of all")
    show = add("show", show_model, "show one version: data, verdict, files, and how the aliases moved")
    show.add_argument("version", nargs="?", help=f"{version}; default: champion, or latest without one")
    fetch = add("fetch", fetch_model, "download a version and verify every file")
    fetch.add_argument("version", nargs="?", help=f"{version}; default: champion, or latest without one")
    fetch.add_argument("folder", nargs="?", type=Path, help="must not exist yet; default: MODEL-VERSION")
    promote = add("promote", promote_model, "make a version the live one")
    promote.add_argument("version", help=version)
    promote.add_argument("--override-reason", help="promote against the rules, with this reason on record")
    rollback = add("rollback", roll_back_model, "go back to the live version before, past those that were rolled back from")
    for moving in (promote, rollback):
        moving.add_argument("--alias", default="champion", help="default: champion")
        moving.add_argument("--reason", default="", help="why, for the history")


def list_models(arguments: argparse.Namespace) -> Answer:
    """List the versions of one model, or of all."""
    store = _open(arguments)
    models = [arguments.model] if arguments.model else store.models.names()
    rows = []
    for model in models:
        aliases = store.aliases.all(model)
        for manifest in store.models.versions(model):
            verdicts = store.evaluations.read(model, manifest["version"])
            rows.append(cli_text.summarise(manifest, aliases, verdicts, store.objects.uri))
    if arguments.model and not rows:
        store.models.resolve(arguments.model, "latest")  # says what there is
    return rows, cli_text.table(rows) if rows else f"No models below {store.objects.uri} yet."


def show_model(arguments: argparse.Namespace) -> Answer:
    """Show one version."""
    store = _open(arguments)
    version = _version(store, arguments)
    manifest, aliases = store.models.manifest(arguments.model, version), store.aliases.all(arguments.model)
    verdicts = store.evaluations.read(arguments.model, version)
    histories = {alias: store.aliases.history(arguments.model, alias) for alias in aliases}
    shown = {
        **cli_text.summarise(manifest, aliases, verdicts, store.objects.uri),
        "manifest": manifest,
        "evaluations": verdicts,
        "history": {alias: [past.to_dict() for past in history] for alias, history in histories.items()},
    }
    return shown, cli_text.details(shown)


def fetch_model(arguments: argparse.Namespace) -> Answer:
    """Download a version and verify it."""
    store = _open(arguments)
    version = _version(store, arguments)
    files = store.models.manifest(arguments.model, version)["files"]
    size = sum(file["bytes"] for file in files)
    folder = arguments.folder or Path(f"{arguments.model}-{version}")
    with _ProgressLine(f"Fetching {arguments.model} version {version}", size) as progress:
        store.models.fetch(arguments.model, version, folder.absolute(), on_bytes=progress.add)
    fetched = {"model": arguments.model, "version": version, "folder": str(folder), "files": len(files), "bytes": size}
    text = f"{arguments.model} version {version} is in {folder}: {len(files)} files, {size_text(size)}, every hash verified"
    return fetched, text


def promote_model(arguments: argparse.Namespace) -> Answer:
    """Point an alias at a version that passed its evaluation, or at any with an override."""
    store = _open(arguments)
    name, override = arguments.model, arguments.override_reason or None
    version = store.models.resolve(name, arguments.version)
    current = store.aliases.read(name, arguments.alias)
    verdict = _judged(store, name, version, override)
    seen = current.generation if current else None
    if arguments.alias == "champion" and verdict:
        seen = verdict.get("champion_generation")
    as_of = verdict.get("as_of") or store.models.manifest(name, version)["facts"].get("as_of")
    store.check()
    move = store.aliases.promote(
        name,
        version,
        alias=arguments.alias,
        promote_id=uuid.uuid4().hex,
        actor=_actor(),
        reason=arguments.reason or "promoted from a terminal",
        expected_generation=seen,
        as_of=as_of,
        override_reason=override,
    )
    return _moved(arguments, move)


def roll_back_model(arguments: argparse.Namespace) -> Answer:
    """Point an alias back at the version before."""
    store = _open(arguments)
    current = store.aliases.read(arguments.model, arguments.alias)
    if current is None:
        store.models.resolve(arguments.model, arguments.alias)  # says what there is
    store.check()
    move = store.aliases.rollback(
        arguments.model,
        alias=arguments.alias,
        promote_id=uuid.uuid4().hex,
        actor=_actor(),
        reason=arguments.reason or "rolled back from a terminal",
        expected_generation=current.generation if current else None,
    )
    return _moved(arguments, move)


def init_dags(arguments: argparse.Namespace) -> Answer:
    """Copy the shipped DAGs into a folder; a file that was changed there is never overwritten."""
    sources, folder = sorted(_recipes().glob("*.py")), arguments.folder
    changed = [s.name for s in sources if (folder / s.name).exists() and (folder / s.name).read_bytes() != s.read_bytes()]
    if changed:
        raise BadInput("FILE_EXISTS", f"holds another {', '.join(changed)}", "name another folder, or rename yours", file=folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [str(shutil.copyfile(source, folder / source.name)) for source in sources]
    return written, "\n".join(f"Wrote {path}" for path in written)


def run_job(arguments: argparse.Namespace) -> int:
    """Run one job in this process and return its exit code; with ``--json`` the result file is printed last."""
    from transfer_learning import run

    code = run.main([str(arguments.job)])
    result = arguments.job.with_name("result.json")
    if arguments.json and result.exists():
        print(result.read_text(encoding="utf-8"))
    return code


def _printing(command: Callable[[argparse.Namespace], Answer]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        data, text = command(arguments)
        print(json.dumps(data, indent=1, ensure_ascii=False) if arguments.json else text)
        return 0

    return run


def _open(arguments: argparse.Namespace) -> Store:
    root = arguments.root or os.environ.get(ROOT_VARIABLE)
    if not root:
        raise BadInput("NO_ROOT", "nobody said where the store is", f"pass --root s3://bucket/prefix, or set {ROOT_VARIABLE}")
    store = Store.open(root)
    marker = documents.read(store.objects, probe.KEY)
    if marker is not None and marker.body.get("layout") != probe.LAYOUT:
        store.check()  # says which layout it knows
    return store


def _version(store: Store, arguments: argparse.Namespace) -> int:
    selector = arguments.version or ("champion" if store.aliases.read(arguments.model) else "latest")
    return store.models.resolve(arguments.model, selector)


def _judged(store: Store, name: str, version: int, override: str | None) -> dict[str, Any]:
    """Return the newest verdict on a version: one that passed, or with an override any, and an empty one where there is none."""
    if override is None:
        return store.evaluations.require_passed(name, version)
    verdicts = store.evaluations.read(name, version)
    return verdicts[-1] if verdicts else {}


def _moved(arguments: argparse.Namespace, move: Move) -> Answer:
    alias, where = move.alias, f"{arguments.alias} of {arguments.model}"
    before = f", before it version {alias.previous}" if alias.previous else ""
    text = f"{where} is version {alias.version} now (generation {alias.generation}{before})"
    if not move.moved:
        text = f"{where} is version {alias.version} already (generation {alias.generation}): nothing to do"
    return {"model": arguments.model, "alias": arguments.alias, "moved": move.moved, **alias.to_dict()}, text


def _recipes() -> Path:
    """Return the folder of the shipped DAGs: package data in a wheel, ``dags/`` in a checkout. Imports nothing."""
    package = importlib.util.find_spec("airflow_transfer_learning")
    places = [Path(place) / "recipes" for place in (package.submodule_search_locations or ())] if package else []
    for place in (*places, Path(__file__).parents[2] / "dags"):
        if place.is_dir():
            return place
    raise BadInput("NO_RECIPES", "this installation holds no DAGs", "install airflow-provider-transfer-learning again")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return f"uid {os.getuid()}"


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"{one_line(message)}\n")
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, like any other bad input."""

    def error(self, message: str) -> NoReturn:
        raise BadInput("USAGE", message, f"see `{self.prog} --help`")


class _ProgressLine:
    """A line on a terminal's standard error that says how far a transfer is; silent where nobody watches."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._shown = sys.stderr.isatty()
        self._lock = threading.Lock()

    def __enter__(self) -> _ProgressLine:
        self.add(0)
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")

    def add(self, count: int) -> None:
        """Count bytes, from any thread."""
        with self._lock:
            self._done += count
            if self._shown:
                sys.stderr.write(f"\r\033[K{self._title}: {size_text(self._done)} of {size_text(self._total)}")
                sys.stderr.flush()
