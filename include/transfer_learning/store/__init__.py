"""Snapshots, features, versions, aliases, evaluations and comparisons in object storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from transfer_learning.errors import BadInput
from transfer_learning.store.aliases import AliasStore
from transfer_learning.store.comparisons import ComparisonStore
from transfer_learning.store.datasets import DatasetStore
from transfer_learning.store.evaluations import EvaluationStore
from transfer_learning.store.features import FeatureStore
from transfer_learning.store.local import LocalObjectStore
from transfer_learning.store.models import ModelStore
from transfer_learning.store.object_store import ObjectStore
from transfer_learning.store.probe import check_store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Store:
    """Everything below one root.

    Args:
        objects: the object store at the root.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self.models = ModelStore(objects)
        self.aliases = AliasStore(objects)
        self.evaluations = EvaluationStore(objects)
        self.comparisons = ComparisonStore(objects)
        self.datasets = DatasetStore(objects)
        self.features = FeatureStore(objects)

    @classmethod
    def open(cls, root: str, *, s3_client: S3Client | None = None, renew: Callable[[], S3Client] | None = None) -> Store:
        """Return the store at a root, without looking at it.

        Args:
            root: ``s3://bucket/prefix`` or ``file:///path``.
            s3_client: None makes one from the usual AWS chain; see ``s3.client_config`` for what it should be configured with.
            renew: makes another client when the token of this one has expired; None makes such an end final.

        Raises:
            BadInput: any other kind of root.
        """
        scheme, _, rest = root.partition("://")
        if scheme == "file" and rest.startswith("/"):
            return cls(LocalObjectStore(Path(unquote(rest))))
        bucket, _, prefix = rest.rstrip("/").partition("/")
        if scheme == "s3" and bucket:
            # boto3 takes a while to import, and a DAG file needs none of it.
            from transfer_learning.store import s3

            return cls(s3.S3ObjectStore(s3_client or s3.s3_client(), bucket, prefix, renew=renew))
        raise BadInput("BAD_ROOT", f"the store's root is {root[:80]!r}", "write s3://bucket/prefix or file:///path")

    def check(self) -> None:
        """Check before anything is computed that the root can be read and written, and keeps the promises.

        Raises:
            BadInput: wrong credentials, no bucket, no right to write, a store that ignores preconditions, an unknown layout.
            StoreUnreachable: a dead endpoint, within 60 s.
        """
        check_store(self.objects)
