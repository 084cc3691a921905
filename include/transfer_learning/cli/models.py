"""``transfer-learning models``: versions, aliases, and the files of both."""

from __future__ import annotations

import argparse
import tempfile
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transfer_learning.bases import Bases
from transfer_learning.cli import text
from transfer_learning.cli.command import Answer, actor, open_store, printing
from transfer_learning.cli.progress import ProgressLine
from transfer_learning.errors import BadInput
from transfer_learning.jobs import run_job
from transfer_learning.settings import Settings
from transfer_learning.store import Store, artifacts, manifests, retention
from transfer_learning.store.artifacts import size_text
from transfer_learning.store.cache import Cache
from transfer_learning.store.moves import Move
from transfer_learning.store.object_store import OnBytes

Found = TypeVar("Found")


def add(nouns: Any, in_store: argparse.ArgumentParser) -> None:
    """Add the commands about models."""
    commands = nouns.add_parser("models", help="published models").add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], Answer], text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, parents=[in_store], help=text, description=text)
        added.add_argument("model", nargs="?" if name == "list" else None, help="name of the model")
        added.set_defaults(command=printing(function))
        return added

    version = "a number, an alias or 'latest'"
    command("list", list_models, "list versions, of one model or of all")
    show = command("show", show_model, "show one version: data, verdict, files, and how the aliases moved")
    show.add_argument("version", nargs="?", help=f"{version}; default: champion, or latest without one")
    fetch = command("fetch", fetch_model, "download a version and verify every file")
    fetch.add_argument("version", nargs="?", help=f"{version}; default: champion, or latest without one")
    fetch.add_argument("folder", nargs="?", type=Path, help="must not exist yet; default: MODEL-VERSION")
    fetch.add_argument("--merged", action="store_true", help="merge adapters into their base, where they were published alone")
    promote = command("promote", promote_model, "make a version the live one")
    promote.add_argument("version", help=version)
    promote.add_argument("--override-reason", help="promote against the rules, with this reason on record")
    rollback = command("rollback", roll_back_model, "go back to the live version before, past those that were rolled back from")
    prune = command("prune", prune_models, "say which old versions nobody needs, and with --delete make room")
    prune.add_argument("--keep", type=int, required=True, help="how many of the newest versions stay; live ones stay anyway")
    prune.add_argument("--delete", action="store_true", help="do it; without this nothing is changed")
    for moving in (promote, rollback):
        moving.add_argument("--alias", default="champion", help="default: champion")
        moving.add_argument("--reason", default="", help="why, for the history")


def list_models(arguments: argparse.Namespace) -> Answer:
    """List the versions of one model, or of all."""
    store = open_store(arguments)
    models = [arguments.model] if arguments.model else store.models.names()
    rows: list[dict[str, Any]] = []
    problems: list[BadInput] = []
    for model in models:
        aliases = _tried(problems, store.aliases.all, model) or {}
        for manifest in _tried(problems, store.models.versions, model) or ():
            verdicts = _tried(problems, store.evaluations.read, model, manifest["version"]) or []
            rows.append(text.summarise(manifest, aliases, verdicts, store.objects.uri))
        problems += [manifests.loss(store.objects, model, version) for version in manifests.lost(store.objects, model)]
    if arguments.model and not rows and not problems:
        store.models.resolve(arguments.model, "latest")  # says what there is
    nothing = "No version can be listed." if problems else f"No models below {store.objects.uri} yet."
    return Answer(rows, text.table(rows) if rows else nothing, problems)


def show_model(arguments: argparse.Namespace) -> Answer:
    """Show one version."""
    store = open_store(arguments)
    version = _version(store, arguments)
    manifest, aliases = store.models.manifest(arguments.model, version), store.aliases.all(arguments.model)
    verdicts = store.evaluations.read(arguments.model, version)
    histories = {alias: store.aliases.history(arguments.model, alias) for alias in aliases}
    shown = {
        **text.summarise(manifest, aliases, verdicts, store.objects.uri),
        "manifest": manifest,
        "evaluations": verdicts,
        "history": {alias: [past.to_dict() for past in history] for alias, history in histories.items()},
    }
    return Answer(shown, text.details(shown))


def fetch_model(arguments: argparse.Namespace) -> Answer:
    """Download a version and verify it; adapters merged into their base, if asked."""
    store = open_store(arguments)
    version = _version(store, arguments)
    manifest = store.models.manifest(arguments.model, version)
    merged = arguments.merged and manifests.holds_adapters(manifest)
    folder = arguments.folder or Path(f"{arguments.model}-{version}")
    with ProgressLine(f"Fetching {arguments.model} version {version}", _size(manifest["files"])) as progress:
        fetch = partial(_fetch_merged, store) if merged else store.models.fetch
        fetch(arguments.model, version, folder.absolute(), on_bytes=progress.add)
    files = artifacts.list_files(folder) if merged else manifest["files"]
    size = _size(files)
    fetched = {"model": arguments.model, "version": version, "folder": str(folder), "files": len(files), "bytes": size}
    done = f"{arguments.model} version {version} is in {folder}: {len(files)} files, {size_text(size)}, every hash verified"
    return Answer(fetched | ({"merged": True} if merged else {}), done + (", merged into its base" if merged else ""))


def promote_model(arguments: argparse.Namespace) -> Answer:
    """Point an alias at a version that passed its evaluation, or at any with an override."""
    store = open_store(arguments)
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
        actor=actor(),
        reason=arguments.reason or "promoted from a terminal",
        expected_generation=seen,
        as_of=as_of,
        override_reason=override,
    )
    return _moved(arguments, move)


def roll_back_model(arguments: argparse.Namespace) -> Answer:
    """Point an alias back at the version before."""
    store = open_store(arguments)
    current = store.aliases.read(arguments.model, arguments.alias)
    if current is None:
        store.models.resolve(arguments.model, arguments.alias)  # says what there is
    store.check()
    move = store.aliases.rollback(
        arguments.model,
        alias=arguments.alias,
        promote_id=uuid.uuid4().hex,
        actor=actor(),
        reason=arguments.reason or "rolled back from a terminal",
        expected_generation=current.generation if current else None,
    )
    return _moved(arguments, move)


def prune_models(arguments: argparse.Namespace) -> Answer:
    """Delete the files of versions that nobody needs, or say which these are."""
    store = open_store(arguments)
    if arguments.delete:
        store.check()
    found = retention.prune(store.objects, arguments.model, keep=arguments.keep, actor=actor(), delete=arguments.delete)
    rows = [item.to_dict() for item in found]
    pruned = {"model": arguments.model, "deleted": arguments.delete, "bytes": text.total(rows), "versions": rows}
    return Answer(pruned, text.pruned(pruned))


def _tried(problems: list[BadInput], read: Callable[..., Found], *of: Any) -> Found | None:
    """Return what is read, or None where it is damaged, which joins the problems."""
    try:
        return read(*of)
    except BadInput as problem:
        problems.append(problem)
        return None


def _size(files: artifacts.Files) -> int:
    return sum(file["bytes"] for file in files)


def _fetch_merged(store: Store, name: str, version: int, destination: Path, on_bytes: OnBytes) -> Path:
    """Download adapters and their base, and merge them in a child process, since that takes torch."""
    if destination.exists():
        raise BadInput("FOLDER_EXISTS", "exists, and a merged model is written anew", "name another folder", file=destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as temporary:
        work = Path(temporary)
        adapters = store.models.fetch(name, version, work / "adapters", on_bytes=on_bytes)
        Bases(cache=Cache(work / "cache"), models=store.models, s3_client=_s3_client).add_base(name, version, adapters)
        job = run_job("merge", Settings(), {"model": [adapters]}, work=work / "job")
        return (job.out / "model").replace(destination)


def _s3_client() -> Any:
    from transfer_learning.store.s3 import s3_client  # boto3 takes a while to import

    return s3_client()


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
    said = f"{where} is version {alias.version} now (generation {alias.generation}{before})"
    if not move.moved:
        said = f"{where} is version {alias.version} already (generation {alias.generation}): nothing to do"
    return Answer({"model": arguments.model, "alias": arguments.alias, "moved": move.moved, **alias.to_dict()}, said)
