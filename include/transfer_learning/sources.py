"""From source URIs to files in a folder: what a pull needs, on this machine. Runs in the parent; parsing is the child's work."""

from __future__ import annotations

import difflib
import glob
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from transfer_learning.disk import room_for
from transfer_learning.errors import BadInput
from transfer_learning.remote_sources import (
    Found,
    Sql,
    find_hub_files,
    find_objects,
    fixed_folder,
    has_object,
    has_wildcard,
    stream_query,
)
from transfer_learning.specs import PullSpec

SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""Formats that a file's name tells."""

TEXT_SUFFIX = ".txt"
"""Of the rows of a class folder."""

DOWNLOADS = 8
"""Files that come at once."""

log_line = logging.getLogger(__name__).info


def stage_sources(
    spec: PullSpec,
    destination: Path,
    *,
    s3_client: Any = None,
    renew: Callable[[], Any] | None = None,
    sql: Sql | None = None,
    window: Mapping[str, str] | None = None,
    hub: Any = None,
    log: Callable[[str], None] = log_line,
) -> None:
    """Lay every file of a pull's sources down in ``destination``, with ``sources.json`` about them, written last.

    ``sources.json`` is a list of ``{uri, split, format, files, …}`` with paths relative to ``destination``; what is downloaded
    gets a name of its own, so that no key or file name decides a path. Local files are linked, not copied.

    Args:
        spec: names the sources.
        destination: created; must be empty.
        s3_client: boto3 client for ``s3://``.
        renew: makes another one when the token of the first has expired.
        sql: for ``sql://connection_id``: ``sql(connection_id, query)`` yields Arrow batches or lists of mappings.
        window: told in the log only: rows are left out while they are parsed.
        hub: stand-in for the module ``huggingface_hub``.
        log: gets one line a source.

    Raises:
        BadInput: nothing there, an unknown format, a link that leaves its folder, a wrong setting.
        StoreUnreachable: no usable answer from the object store or the hub.
    """
    destination.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for split, uri in _sources(spec):
        folder = destination / f"{len(entries):05}"
        folder.mkdir()
        if uri.startswith("sql://"):
            found = _stage_query(uri, spec, sql, folder, log)
        else:
            found = _stage_files(_find(uri, s3_client, renew, hub, _wanted(spec)), uri, spec, folder, log)
        for entry in found:
            files = [path.relative_to(destination).as_posix() for path in entry.pop("paths")]
            entries.append({"split": split, **entry, "files": files})
    if window is not None:
        log(f"Rows from {window['start']} up to {window['end']} are kept when they are parsed")
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    (destination / "sources.json").write_text(text, encoding="utf-8")


def check_sources(spec: PullSpec, *, local: bool, s3_client: Any = None, renew: Callable[[], Any] | None = None) -> None:
    """Look for one file of every source where that is cheap: in S3 and on this machine. ``sql://`` and ``hf://`` are not asked.

    Args:
        spec: names the sources.
        local: whether this machine's files are those that the pull will see.
        s3_client: boto3 client for ``s3://``.
        renew: makes another one when the token of the first has expired.

    Raises:
        BadInput: a source has no file, or may not be looked at.
        StoreUnreachable: no usable answer from the object store.
    """
    for _, uri in _sources(spec):
        if uri.startswith("s3://"):
            if s3_client is None or not has_object(uri, s3_client, renew):
                find_objects(uri, s3_client, renew)  # says what is near
        elif local and ("://" not in uri or uri.startswith("file://")) and not _has_file(uri):
            find_local(uri)


def find_local(uri: str) -> list[Found]:
    """Return the files that a path or ``file://`` URI names: one, all below a folder, or those that a pattern matches.

    Raises:
        BadInput: nothing there (near matches are named), or a link that leaves the folder.
    """
    pattern = _local_pattern(uri)
    if uri.startswith("file://") and not pattern.startswith("/"):
        raise BadInput("BAD_SOURCE", "a file:// source is an absolute path", "write file:///folder/*.csv", file=uri)
    path = Path(pattern)
    if path.is_file():
        # Named by the user, so it may be a link to anywhere.
        return [_local(path, path.name, path.resolve())]
    if path.is_dir():
        base, paths = path, sorted(path.rglob("*"))
    else:
        base = Path(fixed_folder(pattern) or ".")
        paths = sorted(map(Path, glob.glob(pattern, recursive=True))) if has_wildcard(pattern) else []  # noqa: PTH207
    files = [(file, file.relative_to(base)) for file in paths if not file.is_dir()]
    files = [(file, relative) for file, relative in files if not any(part.startswith(".") for part in relative.parts)]
    if not files:
        raise BadInput("NO_SOURCE", f"nothing is there{_near_paths(base, path)}", "check the path on this worker", file=uri)
    root = base.resolve()
    found = []
    for file, relative in files:
        target = file.resolve()
        if not target.is_relative_to(root):
            what = f"the link {relative.as_posix()!r} leaves the folder {base}"
            raise BadInput("LINK_LEAVES_FOLDER", what, "copy the file into the folder, or name it by itself", file=uri)
        if not target.is_file():
            raise BadInput("NO_SOURCE", f"{relative.as_posix()!r} is no file", "leave it out", file=uri)
        found.append(_local(file, relative.as_posix(), target))
    return found


def _local_pattern(uri: str) -> str:
    # Not urlsplit: it would take a wildcard '?' for the start of a query.
    return unquote(uri.removeprefix("file://").removeprefix("localhost")) if uri.startswith("file://") else uri


def _has_file(uri: str) -> bool:
    pattern = _local_pattern(uri)
    path = Path(pattern)
    if path.is_dir():
        return any(file.is_file() for file in path.rglob("*"))
    return path.is_file() or any(Path(found).is_file() for found in glob.iglob(pattern, recursive=True))  # noqa: PTH207


def _sources(spec: PullSpec) -> list[tuple[str | None, str]]:
    if spec.split_sources is None:
        return [(None, uri) for uri in spec.sources()]
    return [(split, uri) for split, part in spec.split_sources.items() for uri in ((part,) if isinstance(part, str) else part)]


def _wanted(spec: PullSpec) -> tuple[str, ...]:
    if spec.format is None:
        return tuple(SUFFIXES)
    return (TEXT_SUFFIX,) if spec.format == "class_folders" else tuple(s for s, kind in SUFFIXES.items() if kind == spec.format)


def _find(uri: str, s3_client: Any, renew: Callable[[], Any] | None, hub: Any, suffixes: Sequence[str]) -> list[Found]:
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme == "file":
        return find_local(uri)
    if scheme == "s3":
        return find_objects(uri, s3_client, renew)
    if scheme == "hf":
        return find_hub_files(uri, hub, suffixes)
    raise BadInput("BAD_SOURCE", f"scheme {scheme!r} is not known", "known: a path, file://, s3://, hf://, sql://", file=uri)


def _stage_files(found: list[Found], uri: str, spec: PullSpec, folder: Path, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """Bring files, several at once, and return an entry for each; one for all of them when they are class folders."""
    chosen = _choose(found, uri, spec)
    paths = [folder / f"{number:06}{Path(file.relative).suffix}" for number, file in enumerate(chosen)]
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for _ in pool.map(lambda pair: pair[0].bring(pair[1]), zip(chosen, paths, strict=True)):
            pass
    size = sum(path.stat().st_size for path in paths)
    log(f"{uri}: {len(chosen)} files, {size} bytes")
    if spec.format == "class_folders":
        members = [file.relative for file in chosen]
        return [{"uri": uri.rstrip("/"), "format": "class_folders", "paths": paths, "members": members, "bytes": size}]
    return [
        {"uri": file.uri, "format": spec.format or SUFFIXES[path.suffix.lower()], "paths": [path], **file.facts}
        for file, path in zip(chosen, paths, strict=True)
    ]


def _choose(found: list[Found], uri: str, spec: PullSpec) -> list[Found]:
    """Return the files that are data.

    Raises:
        BadInput: none is, or one that the user named has a name that tells no format.
    """
    if spec.format == "class_folders":
        chosen = [f for f in found if f.relative.endswith(TEXT_SUFFIX) and "/" in f.relative]
        if not chosen:
            what = f"no class folder with {TEXT_SUFFIX} files among {len(found)} files"
            raise BadInput("NO_SOURCE", what, "name the folder that holds one folder for each label", file=uri)
        return chosen
    if spec.format is not None:
        return found
    chosen = [file for file in found if Path(file.relative).suffix.lower() in SUFFIXES]
    named = has_wildcard(uri) or len(found) == 1
    unknown = next((file for file in found if file not in chosen), None)
    if unknown is not None and (named or not chosen):
        texts = sum(file.relative.endswith(TEXT_SUFFIX) and "/" in file.relative for file in found)
        fix = "set format='class_folders'" if texts else f"known: {', '.join(SUFFIXES)}; or set format"
        raise BadInput("UNKNOWN_FORMAT", "the name tells no format", fix, file=unknown.uri)
    return chosen


def _stage_query(uri: str, spec: PullSpec, sql: Sql | None, folder: Path, log: Callable[[str], None]) -> list[dict[str, Any]]:
    if sql is None or spec.query is None:
        raise BadInput("NO_SQL", "a sql:// source needs an Airflow connection", "pull it with PullDatasetOperator", file=uri)
    with room_for(folder, lambda: sum(path.stat().st_size for path in folder.iterdir())):  # at least: nobody knows how many come
        files, rows = stream_query(sql(uri.removeprefix("sql://"), spec.query), uri, folder)
    log(f"{uri}: {rows} rows")
    return [{"uri": uri, "format": "arrow", "paths": [path], "bytes": path.stat().st_size} for path in files]


def _local(path: Path, relative: str, target: Path) -> Found:
    return Found(str(path), relative, partial(_link, target), {"bytes": target.stat().st_size})


def _link(target: Path, path: Path) -> None:
    path.symlink_to(target)


def _near_paths(base: Path, wanted: Path) -> str:
    folder = base if base.is_dir() else next((parent for parent in base.parents if parent.is_dir()), Path())
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(wanted.name, names, n=3, cutoff=0.3) or sorted(names)[:3]
    return f" below {folder}; near: {', '.join(near)}" if near else f" below {folder}"
