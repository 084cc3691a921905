"""Base models: from a URI to a pinned URI to a local folder with a digest. Torch-free; runs in the parent.

``hf://org/name@revision``, ``model://name@alias-or-version``, ``s3://bucket/prefix``, ``file:///folder`` and
``package://import_name/subfolder``. Only safetensors, JSON, text and tokenizer files ever leave the source; weights in other
formats, and code, stay where they are. A version that is adapters alone comes with its own base in the subfolder ``base``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from transfer_learning.errors import BadInput, nearest
from transfer_learning.hashes import sha256_of
from transfer_learning.hub import hub_error, moving_revision, open_hub
from transfer_learning.model_files import ADAPTER_BASE, WANTED, holds_adapters, is_wanted, model_files, no_safetensors
from transfer_learning.settings import canonical_json
from transfer_learning.specs import check_name
from transfer_learning.store.cache import Cache
from transfer_learning.store.files import whole_file

MIRROR = "mirror the model to s3:// or file://"

SCHEMES = ("hf", "timm", "model", "s3", "file", "package")

log = logging.getLogger(__name__)


class Models(Protocol):
    """The part of ``store.models.ModelStore`` that a base model needs."""

    def resolve(self, name: str, selector: str) -> int:
        """Return the version that an alias or number names."""

    def fetch(self, name: str, version: int, destination: Path) -> Path:
        """Download a version, verified."""

    def manifest(self, name: str, version: int) -> Mapping[str, Any]:
        """Return the manifest of a version."""


@dataclasses.dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine."""

    folder: Path
    digest: str
    """sha256 over the names and hashes of its files."""
    uri: str
    """The pinned URI."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bases:
    """Resolves and fetches base models.

    Args:
        cache: keeps the files of what is downloaded; they come again only when they were damaged here or had to make room.
        models: the store's models, for ``model://``.
        s3_client: makes the boto3 client, for ``s3://``.
        hub: a stand-in for the module ``huggingface_hub``.
    """

    cache: Cache
    models: Models | None = None
    s3_client: Callable[[], Any] | None = None
    hub: Any = None

    def resolve(self, uri: str) -> str:
        """Return ``uri`` with every movable part pinned; a revision of the hub that can move is warned of in the log.

        Raises:
            BadInput: an unknown scheme, or nothing there.
        """
        scheme, rest = split_uri(uri)
        if scheme == "hf":
            return self._resolve_hub(rest)
        if scheme == "timm":
            raise BadInput("NO_IMAGES", "image models are not trained yet", "name a text model", file=uri)
        if scheme == "model":
            name, _, selector = rest.partition("@")
            return f"model://{check_name(name, 'model name')}@{self._models().resolve(name, selector or 'champion')}"
        if scheme == "s3":
            bare, _, pinned = rest.partition("#")
            listing = self._listing(bare)
            return uri if pinned else f"s3://{bare}#{_digest(listing)[:16]}"
        bare, _, pinned = rest.partition("#")
        return uri if pinned else f"{uri}#{digest_folder(_local_folder(scheme, bare, uri))[:16]}"

    def fetch(self, uri: str, destination: Path) -> BaseModel:
        """Bring a pinned base model onto this machine.

        Args:
            uri: what ``resolve`` returned.
            destination: folder that is not there yet. It gets the files as hard links into the cache, so that none can vanish
                or change while it is used, those of a folder of this machine too.

        Raises:
            BadInput: it holds no safetensors weights, or is no longer what was pinned.
        """
        scheme, rest = split_uri(uri)
        bare, _, pin = rest.partition("#")
        if scheme in ("file", "package"):
            return self._copy(_local_folder(scheme, bare, uri), pin, uri, destination)
        listing = self.cache.folder / "bases" / f"{hashlib.sha256(uri.encode()).hexdigest()}.json"
        if (files := self._cached(listing, destination)) is None:
            shutil.rmtree(destination, ignore_errors=True)
            downloaded = destination.with_name(f"{destination.name}-download")
            self._download(scheme, bare, pin, uri, downloaded)
            files = _files(downloaded, uri)

            def take(name: str, path: Path) -> None:
                shutil.move(downloaded / name, path)

            self._lay_down(files, destination, take)
            shutil.rmtree(downloaded)
            listing.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(listing) as path:
                path.write_text(json.dumps(files), encoding="utf-8")
        return BaseModel(destination, _digest(files), uri)

    def add_base(self, name: str, version: int, folder: Path) -> None:
        """Lay the base of a version that is adapters alone beside them; any other version stays as it is.

        Args:
            name: of the model.
            version: its number.
            folder: what ``fetch`` of the store's models has made of it.

        Raises:
            BadInput: the base is gone, or is not the one that they were trained on.
        """
        if not holds_adapters(folder):
            return

        known, beside = self._models().manifest(name, version)["facts"].get("base") or {}, folder / ADAPTER_BASE
        uri, wanted = str(known.get("uri", "")), known.get("digest")
        try:
            base = self.fetch(uri, beside)
        except BadInput as error:
            raise _no_base(error.code, name, version, str(error).partition(" — ")[0]) from None
        if base.digest != wanted:
            raise _no_base("BASE_CHANGED", name, version, f"{uri} has digest {base.digest[:12]} now, and had {str(wanted)[:12]}")

    def _copy(self, folder: Path, pin: str, uri: str, destination: Path) -> BaseModel:
        """Lay down the files of a folder of this machine as they were when they were hashed."""
        files = _files(folder)
        digest = _digest(files)
        if not digest.startswith(pin):
            raise _changed(uri, "files")

        known = dict(files)

        def copy(name: str, path: Path) -> None:
            shutil.copyfile(folder / name, path)
            if sha256_of(path) != known[name]:
                raise _changed(uri, "files")

        self._lay_down(files, destination, copy)
        return BaseModel(destination, digest, uri)

    def _cached(self, listing: Path, destination: Path) -> list[list[str]] | None:
        """Lay down what was downloaded before; None where a file of it is gone or damaged."""

        def fail(name: str, path: Path) -> None:  # noqa: ARG001
            raise FileNotFoundError(name)

        try:
            files: list[list[str]] = json.loads(listing.read_text(encoding="utf-8"))
            self._lay_down(files, destination, fail)
        except (FileNotFoundError, ValueError):
            return None
        return files

    def _lay_down(self, files: list[list[str]], destination: Path, bring: Callable[[str, Path], None]) -> None:
        for name, sha256 in files:
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            self.cache.fetch(sha256, partial(bring, name), link=destination / name)

    def _download(self, scheme: str, rest: str, pin: str, uri: str, target: Path) -> None:
        if scheme == "hf":
            self._download_hub(rest, target)
        elif scheme == "model":
            name, _, version = rest.partition("@")
            self._models().fetch(name, int(version), target)
            self.add_base(name, int(version), target)
        else:
            self._download_s3(rest, pin, uri, target)

    def _models(self) -> Models:
        if self.models is None:
            raise BadInput("NO_STORE", "a model:// base needs the model store", "name the store's connection")
        return self.models

    def _resolve_hub(self, rest: str) -> str:
        repository, _, revision = rest.partition("@")
        hub = self.hub or open_hub(f"hf://{rest}")
        try:
            info = hub.HfApi().model_info(repository, revision=revision or None, timeout=20)
        except Exception as error:
            raise hub_error(error, f"hf://{rest}", MIRROR) from None
        pinned = f"hf://{repository}@{info.sha}"
        if warning := moving_revision(f"hf://{rest}", pinned):
            log.warning(warning)
        return pinned

    def _download_hub(self, rest: str, target: Path) -> None:
        repository, _, revision = rest.partition("@")
        hub = self.hub or open_hub(f"hf://{rest}")
        try:
            hub.snapshot_download(repository, revision=revision, allow_patterns=list(WANTED), local_dir=target)
        except Exception as error:
            raise hub_error(error, f"hf://{rest}", MIRROR) from None
        shutil.rmtree(target / ".cache", ignore_errors=True)

    def _listing(self, rest: str) -> list[list[Any]]:
        """Return key, etag and size of every wanted object below ``bucket/prefix``."""
        client, (bucket, prefix) = self._client(), _bucket_and_prefix(rest)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        with _s3_errors(client, f"s3://{rest}"):
            entries = [entry for page in pages for entry in page.get("Contents", [])]
        wanted = [[e["Key"], e["ETag"], e["Size"]] for e in entries if is_wanted(e["Key"].rsplit("/", 1)[-1])]
        if not wanted:
            raise BadInput("NO_BASE", "no model files below this prefix", "check bucket and prefix", file=f"s3://{rest}")
        return wanted

    def _download_s3(self, rest: str, pin: str, uri: str, target: Path) -> None:
        from transfer_learning.store.s3 import S3ObjectStore

        listing = self._listing(rest)
        if pin and not _digest(listing).startswith(pin):
            raise _changed(uri, "objects")
        bucket, prefix = _bucket_and_prefix(rest)
        objects = S3ObjectStore(self._client(), bucket, renew=self.s3_client)
        for key, _, _ in listing:
            path = target / key.removeprefix(prefix)
            if ".." in path.relative_to(target).parts:
                raise BadInput("BAD_NAME", f"object {key[:80]!r} would leave the folder", file=uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            objects.download(key, path)
        if self._listing(rest) != listing:  # somebody wrote there meanwhile: perhaps half of one model and half of another
            raise _changed(uri, "objects")

    def _client(self) -> Any:
        if self.s3_client is None:
            raise BadInput("NO_S3", "an s3:// base needs an AWS connection", "name one in the store's connection")
        return self.s3_client()


def split_uri(uri: str) -> tuple[str, str]:
    """Return scheme and rest of a base model URI.

    Raises:
        BadInput: no scheme, or an unknown one (the nearest is named).
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in SCHEMES or not rest:
        known = ", ".join(f"{s}://" for s in SCHEMES)
        raise BadInput(
            "BAD_BASE", f"base {uri[:120]!r} is not a base model URI{nearest(scheme, SCHEMES)}", f"write one of {known}"
        )
    return scheme, rest


def digest_folder(folder: Path, uri: str | None = None) -> str:
    """Return the sha256 over relative names and hashes of a base model's files.

    Raises:
        BadInput: no safetensors weights; pickled weights are named.
    """
    return _digest(_files(folder, uri))


def _files(folder: Path, uri: str | None = None) -> list[list[str]]:
    """Return relative name and sha256 of each file of a base model, in a fixed order."""
    files = model_files(folder)
    if not any(path.suffix == ".safetensors" for path in files):
        raise no_safetensors(folder, uri)
    return [[path.relative_to(folder).as_posix(), sha256_of(path)] for path in files]


def _changed(uri: str, what: str) -> BadInput:
    return BadInput("BASE_CHANGED", f"the {what} are no longer those that were pinned", "plan the run again", file=uri)


def _no_base(code: str, name: str, version: int, why: str) -> BadInput:
    what = f"is adapters alone, and the base that they were trained on cannot be had: {why.removeprefix(code).strip()}"
    return BadInput(code, what, "bring that base back, or train again", file=f"model://{name}@{version}")


def _bucket_and_prefix(rest: str) -> tuple[str, str]:
    """Return bucket and prefix of ``bucket/prefix``, the prefix with a slash at the end unless it is empty."""
    bucket, _, prefix = rest.partition("/")
    return bucket, prefix.rstrip("/") + "/" if prefix.strip("/") else ""


@contextlib.contextmanager
def _s3_errors(client: Any, uri: str) -> Iterator[None]:
    """Turn boto3's errors into the project's own."""
    from transfer_learning.store.s3_errors import explain

    try:
        yield
    except Exception as error:
        explained = explain(error, doing="list", uri=uri, endpoint=client.meta.endpoint_url, writing=False)
        if explained is error:
            raise
        raise explained from error


def _local_folder(scheme: str, rest: str, uri: str) -> Path:
    if scheme == "file":
        if not rest.startswith("/"):
            raise BadInput("BAD_BASE", "a file:// base is an absolute path", "write file:///folder", file=uri)
        folder = Path(unquote(rest))
    else:
        name, _, subfolder = rest.partition("/")
        found = importlib.util.find_spec(name) if name.isidentifier() else None
        places: Iterable[str] = (found.submodule_search_locations or ()) if found else ()
        if not places:
            raise BadInput(
                "NO_BASE", f"no package {name!r} is installed{nearest(name, _packages())}", "install it on this worker", file=uri
            )
        root = Path(next(iter(places)))
        folder = root / subfolder
        if not folder.resolve().is_relative_to(root.resolve()):
            raise BadInput("BAD_NAME", "the subfolder would leave the package", file=uri)
    if not folder.is_dir():
        raise BadInput("NO_BASE", "there is no such folder", "check the path on this worker", file=uri)
    return folder


def _packages() -> list[str]:
    return list(importlib.metadata.packages_distributions())


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
