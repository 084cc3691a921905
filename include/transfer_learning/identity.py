"""When two jobs, the features of two extractions, or two publishes are the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from transfer_learning.settings import Settings, canonical_json
from transfer_learning.specs import FeatureSpec
from transfer_learning.stage import NUMERICS_VERSIONS

WHICH_ROWS = ("splits", "shard", "task")
"""Settings of an extraction that choose the rows, and do not change what becomes of them."""


def fingerprint(stage: str, spec: Settings, inputs: Mapping[str, str]) -> str:
    """Return the sha256 over everything that decides a job's result: stage, spec, digests of the inputs by role, numerics."""
    parts = {"stage": stage, "spec": spec.canonical(), "inputs": dict(inputs), "numerics": NUMERICS_VERSIONS[stage]}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def features_key(spec: FeatureSpec, base: str, layers: int | None = None) -> str:
    """Return the sha256 over everything that decides the features of an input beside the input itself.

    Args:
        spec: its task tells whether there is a second text.
        base: digest of the base model's files.
        layers: how many the base has; then a layer's number is the same layer counted from the last.

    Raises:
        BadInput: two of the spec's layers are the same one.
    """
    if layers is not None:
        spec = spec.merged({"layers": [from_the_last(layer, layers) for layer in spec.layers]})
    settings = {name: value for name, value in spec.canonical().items() if name not in WHICH_ROWS}
    pairs = spec.task is not None and spec.task.text_pair is not None
    parts = {"base": base, "spec": settings, "pairs": pairs, "numerics": NUMERICS_VERSIONS["feature_extract"]}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def from_the_last(layer: int | str, layers: int) -> int | str:
    """Return the negative number of a layer that exists; 0 is the embeddings."""
    return layer - layers - 1 if isinstance(layer, int) and 0 <= layer <= layers else layer


def publish_id(*, deployment: str, model: str, dag: str, run: str, task: str, map_index: int, fingerprint: str) -> str:
    """Return what makes a publish the same publish when a task runs again: never the try number or a host name."""
    return hashlib.sha256(canonical_json([deployment, model, dag, run, task, map_index, fingerprint]).encode()).hexdigest()
