"""What stored features are found by, and which of them a linear probe may take in the place of its own, trained or judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer_learning.errors import BadInput
from transfer_learning.identity import from_the_last
from transfer_learning.refs import FeaturesRef
from transfer_learning.specs import FeatureSpec, FineTuneSpec, TaskSpec
from transfer_learning.store import Store
from transfer_learning.store.cache import Cache

Set = Mapping[str, Any]
"""The manifest of the features of one shard."""

LEFT_OPEN = {"pooling": "mean", "layer": -1, "normalize": False, "max_length": None}
"""What a linear probe does where its settings say nothing."""


def read_sets(store: Store, features: Any) -> list[Set]:
    """Return the manifests that one ref names, or several: the output of a mapped task is a list.

    Raises:
        BadInput: it is no ref to features, there are none in the list, or such features do not exist.
    """
    refs = [features] if isinstance(features, (Mapping, FeaturesRef)) else list(features or ())
    if not refs and features is not None:
        raise BadInput("NO_FEATURES", "features is an empty list", "leave it out, or extract one shard or more")
    return [store.features.manifest(FeaturesRef.from_dict(ref).digest) for ref in refs]


def merged(spec: FineTuneSpec, features: FeatureSpec, layers: int | None = None) -> FineTuneSpec:
    """Return the training's settings with those of the features where it left them open.

    Args:
        spec: of the training.
        features: of the extraction.
        layers: how many the base has; then either number of a layer will do, and the features' is returned.

    Raises:
        BadInput: another strategy, random weights, several layers, or settings that differ.
    """
    if spec.strategy != "linear_probe":
        what = f"features belong to strategy 'linear_probe', and the strategy is {spec.strategy!r}"
        raise BadInput("BAD_SETTING", what, "set strategy, or leave features out")
    if spec.init_from == "scratch":
        what = "features are those of the base model's weights, and init_from is 'scratch'"
        raise BadInput("BAD_SETTING", what, "leave one of the two out")
    if len(features.layers) > 1:
        what = f"a linear probe sees one layer, and the features have {len(features.layers)}: {list(features.layers)}"
        raise BadInput("WRONG_FEATURES", what, "extract one layer for it")
    given = {name: getattr(features, name) for name in ("pooling", "normalize", "max_length")} | {"layer": features.layers[0]}
    changed: dict[str, Any] = {}
    for name, value in given.items():
        own = getattr(spec, name)
        if own is None or own is False:
            # A setting that means the same stays open, so that the fingerprint is that of the training without features.
            changed |= {name: value} if value != LEFT_OPEN[name] else {}
        elif own != value and layers is not None and name == "layer" and same_layer(own, value, layers):
            changed[name] = value
        elif own != value:
            what = f"FineTuneSpec.{name} is {own!r}, and the features were extracted with {value!r}"
            raise BadInput("WRONG_FEATURES", what, f"leave {name} to the features, or extract them with {own!r}")
    if features.precision != "auto" and spec.precision not in ("auto", features.precision):
        what = f"FineTuneSpec.precision is {spec.precision!r}, and the features were extracted in {features.precision!r}"
        raise BadInput("WRONG_FEATURES", what, "use one precision for both")
    return spec.merged(changed)


def same_layer(one: int | str, other: int | str, layers: int) -> bool:
    """Return whether two numbers are one layer, maybe counted from either end."""
    return from_the_last(one, layers) == from_the_last(other, layers)


def check_settings(spec: FineTuneSpec, features: FeatureSpec) -> None:
    """Check the settings before the base is at hand, which alone tells whether layer 6 is layer -1: that is left open.

    Raises:
        BadInput: as ``merged``.
    """
    own, layer = spec.layer, features.layers[0]
    if isinstance(own, int) and isinstance(layer, int) and (own < 0) != (layer < 0):
        spec = spec.merged({"layer": None})
    merged(spec, features)


def stand_for(sets: Sequence[Set], facts: Mapping[str, Any]) -> bool:
    """Return whether features are what the head of a published version sees: a probe of that base under those settings.

    Args:
        sets: one for each shard; maybe none.
        facts: of the version's manifest.
    """
    if not sets or (facts.get("base") or {}).get("digest") != sets[0]["base"]["digest"]:
        return False
    try:
        spec = FineTuneSpec.from_dict(facts["spec"])
        return merged(spec, FeatureSpec.from_dict(sets[0]["spec"])) == spec
    except (BadInput, KeyError):
        return False


def check_single_texts(task: TaskSpec) -> None:
    """Check that a head on stored features can be published for a task.

    Raises:
        BadInput: it reads pairs of texts.
    """
    if task.text_pair is not None:
        what = "a head on stored features is published for sentence-transformers, which takes one text, and the task has pairs"
        raise BadInput("BAD_SETTING", what, "train without features=")


def check_inputs(task: TaskSpec, pulled: Mapping[str, Any]) -> None:
    """Check that a task reads the texts that the dataset was pulled with: features are found by the hash of those.

    Args:
        task: of the settings.
        pulled: the dataset's own column roles.

    Raises:
        BadInput: another text column.
    """
    for role in ("text", "text_pair"):
        own, known = getattr(task, role), pulled.get(role)
        if own != known:
            what = f"features are found by the texts that the dataset was pulled with: {role} was {known!r}, and is {own!r} here"
            raise BadInput("WRONG_COLUMN", what, "leave task out, or pull the data with this column", column=own)


def check_for_training(sets: Sequence[Set], task: TaskSpec, dataset: Mapping[str, Any], base: str) -> None:
    """Check that the features are all those of the rows that will be trained on.

    Args:
        sets: one for each shard.
        task: of the training.
        dataset: manifest of its snapshot.
        base: digest of its base model.

    Raises:
        BadInput: as ``check_sets``, or features of another base.
    """
    check_inputs(task, dataset["task"])
    for one in sets:
        if one["base"]["digest"] != base:
            what = f"the features are of base model {one['base']['uri']} ({one['base']['digest'][:12]}), not of {base[:12]}"
            raise BadInput("WRONG_FEATURES", what, "extract features of the same base model")
    check_sets(sets, dataset, ("train", "validation"), "the training")


def check_sets(sets: Sequence[Set], dataset: Mapping[str, Any], splits: Sequence[str], who: str) -> None:
    """Check that the features are all those of some splits of a snapshot.

    Args:
        sets: one for each shard.
        dataset: manifest of the snapshot.
        splits: those that are read.
        who: reads them.

    Raises:
        BadInput: features of another snapshot, of several extractions, not of all shards, or not of all splits.
    """
    first = FeatureSpec.from_dict(sets[0]["spec"])
    for one in sets:
        if one["dataset"]["digest"] != dataset["digest"]:
            theirs = f"snapshot {one['dataset']['digest'][:12]} of {one['dataset']['name']}"
            what = f"the features are of {theirs}, and {who} takes {dataset['digest'][:12]} of {dataset['name']}"
            raise BadInput("WRONG_FEATURES", what, "extract features of the same snapshot")
        if extraction(one) != extraction(sets[0]):
            raise BadInput("WRONG_FEATURES", "the shards were extracted with different settings", "pass those of one extraction")
    check_shards([tuple(one["spec"]["shard"]) for one in sets])
    if len(found := precisions(sets)) > 1:
        what = f"the shards were computed in different precisions, {' and '.join(found)}"
        raise BadInput("WRONG_FEATURES", what, "set FeatureSpec.precision, or extract on machines of one kind")
    for split in splits:
        if dataset["splits"].get(split) and split not in first.splits:
            what = f"the features are of {', '.join(first.splits)}, and {who} reads {split} too"
            raise BadInput("WRONG_FEATURES", what, f"add {split} to FeatureSpec.splits")


def fetch_sets(store: Store, sets: Sequence[Set], destination: Path, cache: Cache) -> dict[str, list[Path]]:
    """Bring the features of all shards onto this machine, as the input ``features``, if there are any."""
    for one in sets:
        store.features.fetch(one["digest"], destination=destination, cache=cache)
    return {"features": [destination]} if sets else {}


def check_shards(shards: Sequence[tuple[int, int]]) -> None:
    """Check that every shard is there once.

    Raises:
        BadInput: the first that is missing or there twice.
    """
    count = shards[0][1]
    for number in range(count):
        if (times := sum(number == i for i, _ in shards)) != 1:
            what = f"shard {number} of {count} is {'missing' if not times else 'there twice'}"
            raise BadInput("WRONG_FEATURES", what, "pass the output of every shard once")


def extraction(one: Set) -> tuple[Any, ...]:
    """Return what the shards of one extraction have in common."""
    return one["cache"], one["spec"]["splits"], one["spec"]["shard"][1]


def precisions(sets: Sequence[Set]) -> list[str]:
    """Return the arithmetic that made the features; a shard without a row has none."""
    return sorted({one["precision"] for one in sets if one["precision"]})
