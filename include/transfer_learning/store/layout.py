"""Where models, checkpoints and features lie below the store's root. Every name is checked before it joins a key."""

from __future__ import annotations

import re

from transfer_learning.errors import BadInput
from transfer_learning.feature_files import PART
from transfer_learning.specs import check_name
from transfer_learning.store.files import check_sha256

ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
"""Publish ids, fingerprints and evaluation ids: a sha256 in hex, or a name."""


def model_prefix(name: str) -> str:
    """Return the prefix of everything about a model."""
    return f"models/{check_name(name, 'model name')}/"


def artifact_prefix(name: str, publish_id: str, nonce: str) -> str:
    """Return the folder that one attempt of one publish writes to, without a slash at the end."""
    return f"{model_prefix(name)}artifacts/{check_id(publish_id)}-{check_id(nonce)}"


def intent_key(name: str, publish_id: str) -> str:
    """Return the key of a publish's intent."""
    return f"{model_prefix(name)}publishes/{check_id(publish_id)}.json"


def ledger_key(name: str, publish_id: str, nonce: str) -> str:
    """Return the key of the part that one attempt of a publish adds to the ledger of what was trained on."""
    return f"{model_prefix(name)}ledgers/{check_id(publish_id)}-{check_id(nonce)}.parquet"


def fingerprints_prefix(name: str) -> str:
    """Return the prefix of what finds the versions of a model by their fingerprints."""
    return f"{model_prefix(name)}fingerprints/"


def fingerprint_key(name: str, fingerprint: str) -> str:
    """Return the key that finds the version of a fingerprint."""
    return f"{fingerprints_prefix(name)}{check_id(fingerprint)}.json"


def versions_prefix(name: str) -> str:
    """Return the prefix of a model's version manifests."""
    return f"{model_prefix(name)}versions/"


def version_key(name: str, version: int) -> str:
    """Return the key of a version's manifest, such as ``models/news/versions/000042.json``."""
    return f"{versions_prefix(name)}{version:06d}.json"


def evaluations_prefix(name: str, version: int | None = None) -> str:
    """Return the prefix of the evaluations of one version, or of all of them."""
    return f"{model_prefix(name)}evaluations/" + ("" if version is None else f"{version:06d}/")


def comparison_prefix(name: str, digest: str) -> str:
    """Return the folder of one comparison of a model's versions, without a slash at the end."""
    return f"{model_prefix(name)}comparisons/{check_sha256(digest)}"


def aliases_prefix(name: str) -> str:
    """Return the prefix of a model's aliases and their histories."""
    return f"{model_prefix(name)}aliases/"


def alias_key(name: str, alias: str) -> str:
    """Return the key of an alias."""
    return f"{aliases_prefix(name)}{check_name(alias, 'alias')}.json"


def history_prefix(name: str, alias: str) -> str:
    """Return the prefix of the past generations of an alias."""
    return f"{aliases_prefix(name)}{check_name(alias, 'alias')}/history/"


def history_key(name: str, alias: str, generation: int) -> str:
    """Return the key under which a past generation of an alias is kept."""
    return f"{history_prefix(name, alias)}{generation}.json"


def checkpoints_prefix(fingerprint: str) -> str:
    """Return the prefix of a job's lease and checkpoints."""
    return f"checkpoints/{check_id(fingerprint)}/"


def features_prefix(key: str) -> str:
    """Return the prefix of all features that one base model gives with one set of settings."""
    return f"features/cache/{check_sha256(key)}/"


def feature_part_key(key: str, name: str) -> str:
    """Return the key of a part of features."""
    _feature_part(name)
    return f"{features_prefix(key)}{name}"


def feature_index_key(key: str, name: str) -> str:
    """Return the key of the index of a part: the hashes of the inputs it holds."""
    return f"{features_prefix(key)}index-{_feature_part(name)['stem']}"


def feature_damage_key(key: str, name: str) -> str:
    """Return the key of the mark that a part, or its index, was read damaged."""
    return f"{features_prefix(key)}damaged-{_feature_part(name)['stem']}"


def feature_part_sha256(name: str) -> str:
    """Return the hash that a part's name promises."""
    return _feature_part(name)["sha256"]


def feature_set_key(digest: str) -> str:
    """Return the key of the manifest that names the parts of one extraction."""
    return f"features/sets/{check_sha256(digest)}/manifest.json"


def check_id(text: str) -> str:
    """Return ``text`` if it is safe as one path segment.

    Raises:
        BadInput: it is not.
    """
    if not isinstance(text, str) or not ID_PATTERN.fullmatch(text) or ".." in text:
        raise BadInput("BAD_NAME", f"id {str(text)[:80]!r} is not allowed", "use [a-z0-9][a-z0-9._-]{0,127}")
    return text


def _feature_part(name: str) -> re.Match[str]:
    matched = PART.fullmatch(str(name))
    if matched is None:
        raise BadInput("BAD_NAME", f"{str(name)[:80]!r} is not the name of a part of features")
    return matched
