from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_learning.blocks.data.hashing import (
    content_key,
    encoded,
    group_key,
    input_hash,
    normalised,
    row_hash,
    row_key,
    split_points,
)
from transfer_learning.errors import BadInput
from transfer_learning.hashes import fixed_binary, from_fixed_binary
from transfer_learning.stage import NUMERICS_VERSIONS


def hexes(hashes) -> list[str]:
    return [hashes[i : i + 1].tobytes().hex() for i in range(len(hashes))]


def texts(*values) -> pa.Array:
    return pa.array(values, pa.string())


def test_golden_vectors_hold_for_this_numerics_version():
    """When this turns red, raise NUMERICS_VERSIONS["pull_dataset"]: rows would change their split and their snapshot."""
    text, label = texts("Profits  RISE", "ﬁnal whistle"), texts("business", None)

    assert NUMERICS_VERSIONS["pull_dataset"] == 3
    assert hexes(row_hash({"text": text, "label": label})) == GOLDEN["row"]
    assert hexes(input_hash(text)) == GOLDEN["input"]
    assert hexes(input_hash(text, label)) == GOLDEN["pair"]
    assert hexes(content_key(text)) == GOLDEN["content"]
    assert hexes(row_key(pa.array([7, 8]))) == GOLDEN["id"]
    assert split_points(content_key(text), "salt").tolist() == GOLDEN["points"]


GOLDEN = {
    "content": [
        "7acf2290c499ee6426a5fa17f42d9a1efe78d442b70664e1ea2f237045b4d847",
        "a76a93a926ab9fd3dde6b5a5b39077ad618ac6835417d495150365061601e7a2",
    ],
    "id": [
        "3843a382b49c7a15e3fd9de510c08812179e3de04bb02990323a723e3c5ba2d1",
        "c1b46da1c914315c76b6053f0ea4a72ef97844603ae0b4209596f3e11c21d13e",
    ],
    "input": [
        "ab3db081a4d4bb36bd5a00ab366033e4cbbc560636b8d1ceb3604044ef4c39fe",
        "042b6ae2319c0001b29eb6666b30b90c2b576bbc8983c53beb4c6e29c4a6456c",
    ],
    "pair": [
        "05690f3d43724cf6d0e8405778b998d6806b9d3674bcd2b35e73a42b7493aa66",
        "5878ab97e8bbda7c09773b71e55180c2315da257e936f37bd1281f3fe0cf4acc",
    ],
    "points": [0.5213108484914412, 0.1693221620221147],
    "row": [
        "50dbe5dad3f2f3048782f7d6144e910e3592269a0e77f99ccb37c6d2fd6b64bf",
        "9d0eb1bb5135efb3aebc0c26d2d81e0773c94c0532a4f5246725be42ca7fad18",
    ],
}


def test_column_order_does_not_matter_and_names_do():
    a, b = texts("x"), texts("y")

    assert row_hash({"a": a, "b": b}) == row_hash({"b": b, "a": a})
    assert row_hash({"a": a, "b": b}) != row_hash({"a": b, "b": a})
    assert row_hash({"a": a, "b": b}) != row_hash({"a": a, "c": b})


cells = st.one_of(st.none(), st.text(max_size=8))


@given(st.tuples(cells, cells), st.tuples(cells, cells))
def test_two_rows_have_one_hash_only_when_they_are_equal(first, second):
    assert (input_hash(texts(first[0]), texts(first[1])) == input_hash(texts(second[0]), texts(second[1])))[0] == (
        first == second
    )


def test_kinds_are_never_confused():
    columns = [pa.array([1]), texts("1"), pa.array([1.0]), pa.array([True]), pa.array([None]), texts(""), texts("n")]

    assert len(set(hexes(np.concatenate([row_key(column) for column in columns])))) == len(columns)


def test_numbers_are_hashed_by_value_whatever_their_width():
    assert encoded(pa.array([5], pa.int8())) == encoded(pa.array([5], pa.uint64()))
    assert encoded(pa.array([0.5], pa.float32())) == encoded(pa.array([0.5], pa.float64()))
    assert encoded(pa.array([0.0, float("nan")])) == encoded(pa.array([-0.0, -float("nan")]))
    assert encoded(pa.array([decimal.Decimal("1.50")])) == encoded(pa.array([decimal.Decimal("1.5")]))
    assert encoded(pa.array([decimal.Decimal("100")])) != encoded(pa.array([decimal.Decimal("1")]))


def test_times_are_hashed_by_the_instant_whatever_their_unit():
    at = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
    kinds = [pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "Europe/Berlin")]

    assert len({encoded(pa.array([at], kind))[0] for kind in kinds}) == 1
    assert encoded(pa.array([at], kinds[0])) != encoded(pa.array([at.replace(tzinfo=None)], pa.timestamp("s")))


def test_lists_and_bytes_cannot_be_kept():
    for column in (pa.array([[1]]), pa.array([b"x"])):
        with pytest.raises(BadInput, match=r"^UNSUPPORTED_TYPE values of type "):
            encoded(column)


@pytest.mark.parametrize(
    "other", ["profits rise", "PROFITS RISE", " Profits \t rise\n", "Proﬁts rise", "Profits\u00a0rise", "Ｐrofits rise"]
)
def test_content_ignores_case_spaces_and_unicode_forms(other):
    assert content_key(texts("Profits rise")) == content_key(texts(other))
    assert input_hash(texts("Profits rise")) != input_hash(texts(other)) or other == "Profits rise"


@given(st.text())
def test_normalising_ascii_takes_no_short_cut_with_the_meaning(text):
    assert normalised(text + "é").removesuffix("é").rstrip() == normalised(text) or not text.isascii()


def test_content_ignores_how_accents_are_composed():
    assert content_key(texts("Caf\u00e9")) == content_key(texts("CAFE\u0301"))


def test_a_pair_is_not_the_two_texts_joined():
    assert content_key(texts("ab"), texts("c")) != content_key(texts("a"), texts("bc"))
    assert content_key(texts("a"), texts(None)) != content_key(texts("a"))


def test_points_are_uniform_and_change_with_the_salt():
    keys = group_key(pa.array([f"g{i}" for i in range(20_000)]))

    points = split_points(keys, "")

    assert points.min() >= 0
    assert points.max() < 1
    assert abs((points < 0.2).mean() - 0.2) < 0.01
    assert abs(np.corrcoef(points, split_points(keys, "other"))[0, 1]) < 0.03


def test_hashes_survive_arrow_also_when_sliced_and_chunked():
    keys = row_key(pa.array(range(1000)))
    column = pa.chunked_array([fixed_binary(keys[:300]), fixed_binary(keys[300:])])

    assert (from_fixed_binary(column.slice(250, 500)) == keys[250:750]).all()
    assert len(from_fixed_binary(column.slice(0, 0))) == 0


def test_digests_that_end_in_nul_bytes_stay_whole():
    keys = np.frombuffer(b"\1" * 31 + b"\0" + b"\2" * 32, dtype="S32")

    assert from_fixed_binary(fixed_binary(keys)).tobytes() == keys.tobytes()
