"""Sources that are not files on this machine: objects in S3, datasets of the Hugging Face hub, rows of an SQL query."""

from __future__ import annotations

import difflib
import fnmatch
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from transfer_learning.errors import BadInput
from transfer_learning.hub import hub_error, open_hub

SQL_BATCH_ROWS = 16_384

MIRROR = "copy the dataset's files to s3:// or file:// where the hub can be reached, and name them as the source"

HUB_URI = re.compile(
    r"(?:datasets/)?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/@]+))?(?:/(?P<path>.*))?"
)


@dataclass(frozen=True, slots=True)
class Found:
    """One file of a source, before it is on this machine."""

    uri: str
    """What messages call it."""
    relative: str
    """Its path below the part of the source that has no wildcard."""
    bring: Callable[[Path], None]
    """Puts it at a path."""
    facts: dict[str, Any]
    """``bytes`` and, where known, ``revision``."""


def matches(path: str, pattern: str) -> bool:
    """Return whether a path matches: ``*`` and ``?`` stay inside one folder, ``**`` is any number of folders."""
    return _matches(path.split("/"), pattern.split("/"))


def fixed_folder(pattern: str) -> str:
    """Return the folders of ``pattern`` before its first wildcard, with a slash at the end, or nothing."""
    fixed = _fixed(pattern)
    return fixed[: fixed.rfind("/") + 1]


def has_wildcard(text: str) -> bool:
    """Return whether ``text`` holds a wildcard."""
    return any(character in text for character in "*?[")


def find_objects(uri: str, client: Any, renew: Callable[[], Any] | None = None) -> list[Found]:
    """Return the objects that an ``s3://`` URI names: one, all below a prefix, or those that a pattern matches.

    Raises:
        BadInput: no connection, no right to look, or nothing there (near matches are named).
        StoreUnreachable: no usable answer.
    """
    if client is None:
        raise BadInput("NO_S3", "an s3:// source needs an AWS connection", "name one in the store's connection", file=uri)
    # boto3 takes a while to import, and local sources need none of it.
    from transfer_learning.store.s3 import S3ObjectStore

    bucket, _, pattern = uri.removeprefix("s3://").partition("/")
    objects = S3ObjectStore(client, bucket, renew=renew)
    fixed = _fixed(pattern)
    listed = {info.key: info.size for info in objects.list(fixed)}
    if has_wildcard(pattern) and pattern not in listed:
        keys, base = [key for key in listed if matches(key, pattern)], fixed_folder(pattern)
    elif pattern in listed:
        keys, base = [pattern], pattern[: pattern.rfind("/") + 1]
    else:
        base = pattern.rstrip("/") + "/" if pattern else ""
        keys = [key for key in listed if key.startswith(base) and not key.endswith("/")]
    if not keys:
        near = _near_keys(client, bucket, pattern, fixed)
        what = f"nothing matches below the prefix s3://{bucket}/{fixed}{near}"
        raise BadInput("NO_SOURCE", what, "check bucket, prefix and pattern", file=uri)
    return [
        Found(f"s3://{bucket}/{key}", key[len(base) :], partial(objects.download, key), {"bytes": listed[key]})
        for key in sorted(keys)
    ]


def has_object(uri: str, client: Any, renew: Callable[[], Any] | None = None) -> bool:
    """Return whether an ``s3://`` URI names an object; the listing ends at the first one.

    Raises:
        BadInput: no right to look.
        StoreUnreachable: no usable answer.
    """
    from transfer_learning.store.s3 import S3ObjectStore

    bucket, _, pattern = uri.removeprefix("s3://").partition("/")
    base = pattern.rstrip("/") + "/" if pattern else ""
    found = (info.key for info in S3ObjectStore(client, bucket, renew=renew).scan(_fixed(pattern)))
    if has_wildcard(pattern):
        return any(key == pattern or matches(key, pattern) for key in found)
    return any(key == pattern or key.startswith(base) for key in found)


def find_hub_files(uri: str, hub: Any, suffixes: Sequence[str]) -> list[Found]:
    """Return data files of ``hf://org/name@revision/folder-or-pattern`` at the commit that the revision names now.

    Args:
        uri: the source; scripts of the repository are never downloaded.
        hub: a stand-in for the module ``huggingface_hub``, or None.
        suffixes: of the files that are data.

    Raises:
        BadInput: no such dataset or revision, or no data file there.
        StoreUnreachable: the hub cannot be reached; says what to do offline.
    """
    parts = HUB_URI.fullmatch(uri.removeprefix("hf://"))
    if parts is None:
        raise BadInput("BAD_SOURCE", "is no dataset of the hub", "write hf://org/name@revision/folder/*.parquet", file=uri)
    repository, pattern = parts["repository"], parts["path"] or ""
    hub = hub or open_hub(uri)
    try:
        info = hub.HfApi().dataset_info(repository, revision=parts["revision"], timeout=20)
    except Exception as error:
        raise hub_error(error, uri, MIRROR) from None
    names = sorted(sibling.rfilename for sibling in info.siblings or ())
    data = [name for name in names if name.endswith(tuple(suffixes)) and ".." not in name.split("/")]
    base = fixed_folder(pattern) if has_wildcard(pattern) else pattern.rstrip("/") + "/" if pattern else ""
    chosen = [n for n in data if n == pattern or (matches(n, pattern) if has_wildcard(pattern) else n.startswith(base))]
    if not chosen:
        near = _near(pattern, data)
        what = f"no {', '.join(suffixes)} file there at commit {info.sha[:12]}{near}"
        raise BadInput("NO_SOURCE", what, "name a folder or pattern that has some; scripts are never run", file=uri)

    def bring(name: str, path: Path) -> None:
        scratch = path.with_suffix(".hub")
        try:
            downloaded = hub.hf_hub_download(repository, name, repo_type="dataset", revision=info.sha, local_dir=scratch)
            Path(downloaded).replace(path)
        except Exception as error:
            raise hub_error(error, uri, MIRROR) from None
        shutil.rmtree(scratch, ignore_errors=True)

    pinned = f"hf://{repository}@{info.sha}"
    return [Found(f"{pinned}/{n}", n.removeprefix(base), partial(bring, n), {"revision": info.sha}) for n in chosen]


def stream_query(batches: Iterable[pa.RecordBatch | Sequence[Any]], uri: str, folder: Path) -> tuple[list[Path], int]:
    """Write the batches of a query to Arrow IPC files as they come; a batch with other types begins a new file.

    Args:
        batches: Arrow record batches, or lists of rows as mappings from column to value.
        uri: for messages.
        folder: gets the files.

    Returns:
        The files, and the number of rows.

    Raises:
        BadInput: values of several types in one column of a batch, or no rows.
    """
    files: list[Path] = []
    rows = 0
    writer: Any = None
    schema: pa.Schema | None = None
    try:
        for given in batches:
            batch = _record_batch(given, uri)
            if not batch.num_rows:
                continue
            batch = _widened(batch, schema, uri)
            if schema is None or not batch.schema.equals(schema):
                if writer is not None:
                    writer.close()
                schema = batch.schema
                files.append(folder / f"{len(files):05}.arrow")
                writer = pa.ipc.new_file(files[-1], schema)
            rows += batch.num_rows
            for start in range(0, batch.num_rows, SQL_BATCH_ROWS):
                writer.write_batch(batch.slice(start, SQL_BATCH_ROWS))
    finally:
        if writer is not None:
            writer.close()
    if not rows:
        raise BadInput("NO_ROWS", "the query returns no rows", "check the query", file=uri)
    return files, rows


def _record_batch(batch: pa.RecordBatch | Sequence[Any], uri: str) -> pa.RecordBatch:
    if isinstance(batch, pa.RecordBatch):
        return batch
    try:
        return pa.RecordBatch.from_pylist([dict(row) for row in batch])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        fix = "CAST each column to one type in the query"
        raise BadInput("MIXED_TYPES", f"{error}"[:200], fix, file=uri) from None


def _widened(batch: pa.RecordBatch, schema: pa.Schema | None, uri: str) -> pa.RecordBatch:
    """Return the batch in the types of those before it, as far as only empty cells and the digits of decimals set them apart.

    Otherwise every batch might begin a file: rows from a database show no more of a column's type than their own values need.
    """
    if schema is None or batch.schema.names != schema.names:
        return batch
    try:
        pairs = zip(schema, batch.schema, strict=True)
        return batch.cast(pa.schema([_wider(known, field) for known, field in pairs]))
    except pa.ArrowInvalid as error:
        raise BadInput("MIXED_TYPES", f"{error}"[:200], "CAST each column to one type in the query", file=uri) from None


def _wider(known: pa.Field, field: pa.Field) -> pa.Field:
    if pa.types.is_null(field.type):
        return known
    if pa.types.is_decimal(known.type) and pa.types.is_decimal(field.type):
        return pa.unify_schemas([pa.schema([known]), pa.schema([field])], promote_options="permissive").field(0)
    return field


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_matches(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _fixed(pattern: str) -> str:
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]


def _near_keys(client: Any, bucket: str, pattern: str, fixed: str) -> str:
    """Return what stands near a pattern that nothing matches; one page of keys, from the longest prefix that has any."""
    from botocore.exceptions import BotoCoreError, ClientError

    prefix = fixed
    while True:
        try:
            page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1000)
        except (BotoCoreError, ClientError):  # a policy may allow the prefix that was asked for and none above it
            return ""
        keys = [entry["Key"] for entry in page.get("Contents", [])]
        if keys or not prefix:
            return _near(pattern, keys)
        prefix = prefix[: prefix.rstrip("/").rfind("/") + 1]


def _near(pattern: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names[:3])
    return f"; near: {', '.join(near)}" if near else "; there is nothing"


Rows = Iterator[pa.RecordBatch | Sequence[Any]]
Sql = Callable[[str, str], Rows]
"""``sql(connection_id, query)`` yields Arrow batches, or lists of rows as mappings."""
