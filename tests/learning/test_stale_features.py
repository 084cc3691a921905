"""Promise 26: whatever decides a feature is in the key it is found by, so that nothing stale is ever found."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from transfer_learning.bases import digest_folder
from transfer_learning.blocks.data.hashing import input_hash
from transfer_learning.errors import BadInput
from transfer_learning.identity import features_key
from transfer_learning.specs import FeatureSpec
from transfer_learning.stage import NUMERICS_VERSIONS

FILES = {
    "model.safetensors": bytes(range(256)) * 4,
    "config.json": b'{"hidden_size": 32, "hidden_act": "gelu"}',
    "tokenizer.json": b'{"model": {"vocab": {"cup": 7, "cap": 8}}}',
    "tokenizer_config.json": b'{"do_lower_case": true}',
    "vocab.txt": b"cup\ncap\n",
}
SPEC: dict[str, Any] = {"layers": [1], "pooling": "mean", "max_length": 32, "precision": "fp32", "dtype": "float32"}
TEXT, PAIR = "the cup final", "and what came after"

ONE_BYTE = {
    **{f"{name} at byte {at}": ("file", name, at) for name, data in FILES.items() for at in (0, len(data) // 2, len(data) - 1)},
    **{f"text at byte {at}": ("text", at) for at in (0, 7, 12)},
    **{f"second text at byte {at}": ("pair", at) for at in (0, 18)},
    "a space after the text": ("texts", TEXT + " ", PAIR),
    "a letter that looks the same": ("texts", TEXT.replace("a", "\u0430"), PAIR),
    "texts cut elsewhere": ("texts", TEXT + PAIR[:1], PAIR[1:]),
    "no second text": ("texts", TEXT + PAIR, None),
    "an empty second text": ("texts", TEXT, ""),
    **{
        f"{name} {value}": ("spec", {name: value})
        for name, values in {
            "layers": ([2], [-1], ["encoder.layer.0"], [1, 2], [2, 1]),
            "pooling": ("cls", "max", "last_token", "concat"),
            "normalize": (True,),
            "max_length": (33, None),
            "precision": ("bf16", "auto"),
            "dtype": ("float16",),
            "task": ({"text_pair": "second"},),
        }.items()
        for value in values
    },
    "numerics version": ("numerics",),
}
SAME = {
    "splits": {"splits": ["train", "test", "unlabelled"]},
    "shard": {"shard": [3, 7]},
    "columns": {"task": {"text": "headline", "label": "desk", "id": "number", "slices": ["region"]}},
}


@pytest.fixture
def found_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, bytes]]:
    """Returns what a row's features are found by: the key of their folder, and the hash of the row's input."""
    count = itertools.count()

    def names(what: str | None = None, *change: Any) -> tuple[str, bytes]:
        folder = tmp_path / f"base-{next(count)}"
        folder.mkdir()
        for name, data in FILES.items():
            (folder / name).write_bytes(flipped(data, change[1]) if what == "file" and change[0] == name else data)
        texts = {
            "text": (flipped(TEXT.encode(), *change).decode(), PAIR) if what == "text" else None,
            "pair": (TEXT, flipped(PAIR.encode(), *change).decode()) if what == "pair" else None,
            "texts": change,
        }.get(what or "") or (TEXT, PAIR)
        with monkeypatch.context() as patch:
            if what == "numerics":
                patch.setitem(NUMERICS_VERSIONS, "feature_extract", NUMERICS_VERSIONS["feature_extract"] + 1)
            spec = FeatureSpec.from_dict(SPEC | (change[0] if what == "spec" else {}))
            key = features_key(spec, digest_folder(folder))
        [digest] = input_hash(*(None if text is None else pa.array([text]) for text in texts)).tolist()
        return key, digest

    return names


@pytest.mark.promise(26)
def test_a_change_of_one_byte_is_a_miss(found_by: Callable[..., tuple[str, bytes]], held: Callable[[str], None]) -> None:
    before = found_by()

    found = {name: found_by(*change) for name, change in ONE_BYTE.items()}

    assert [name for name, after in found.items() if after == before] == []
    assert len({before, *found.values()}) == len(ONE_BYTE) + 1
    assert len(ONE_BYTE) >= 30
    held(f"{len(ONE_BYTE)} changes, {len(ONE_BYTE)} misses")


@pytest.mark.parametrize("name", SAME)
def test_what_only_chooses_the_rows_is_no_miss(found_by: Callable[..., tuple[str, bytes]], name: str) -> None:
    assert found_by("spec", SAME[name]) == found_by()


@pytest.mark.parametrize(
    ("layers", "same"), [([6], [-1]), ([0, 5], [-7, -2]), ([-7], [0]), ([1, "encoder.layer.5"], [-6, "encoder.layer.5"])]
)
def test_a_layer_counted_from_either_end_is_the_same(layers: list[int | str], same: list[int | str]) -> None:
    one, other = (features_key(FeatureSpec.from_dict(SPEC | {"layers": given}), "0" * 64, 6) for given in (layers, same))

    assert one == other


@pytest.mark.parametrize("layers", [[7], [-8], [6, 5], [5, 6]])
def test_layers_that_are_not_the_same_are_a_miss(layers: list[int]) -> None:
    known = {features_key(FeatureSpec.from_dict(SPEC | {"layers": [layer]}), "0" * 64, 6) for layer in range(-7, 7)}

    assert len(known) == 7
    assert features_key(FeatureSpec.from_dict(SPEC | {"layers": layers}), "0" * 64, 6) not in known


def test_the_same_layer_by_two_numbers_is_one_line() -> None:
    with pytest.raises(BadInput, match=r"^BAD_SETTING FeatureSpec.layers must name at least one block, and none twice"):
        features_key(FeatureSpec.from_dict(SPEC | {"layers": [6, -1]}), "0" * 64, 6)


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ({}, "b126317f1b71e1dfd75893e838e512c81587f9ec2a9b109f5bdd525cea76bb4f"),
        (SPEC, "e4dc621e7295e71d687807b34a9690df0ef1063d0502f1d9e78e9c2ff070d1c2"),
    ],
)
def test_a_key_stays_from_release_to_release(monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], key: str) -> None:
    """Another key for the same settings would drop the features in every store."""
    monkeypatch.setitem(NUMERICS_VERSIONS, "feature_extract", 1)

    assert features_key(FeatureSpec.from_dict(spec), "0" * 64) == key


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
