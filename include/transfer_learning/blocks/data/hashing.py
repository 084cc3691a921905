"""The three hashes of a row, its key, and its place on the split line.

Every hash is SHA-256 over netstrings (``tag length ":" bytes``), so no two different rows can be written as the same bytes.
Numbers are written by value, not by width: an int32 and an int64 column with the same values hash alike. A change here moves
rows between splits, so it raises ``NUMERICS_VERSIONS["pull_dataset"]``; golden vectors in the tests turn red otherwise.
"""

from __future__ import annotations

import hashlib
import math
import struct
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transfer_learning.errors import BadInput
from transfer_learning.hashes import Hashes

HASH_COLUMNS = ("_row_key", "_row_hash", "_input_hash", "_content_key")
"""Columns that every part of a snapshot carries beside the user's."""


def row_hash(columns: Mapping[str, pa.Array]) -> Hashes:
    """Return the hash of every kept column, names and label included, whatever their order: what a snapshot compares."""
    names = sorted(columns)
    head = b"row/1" + b"".join(netstring(b"k", name.encode()) for name in names)
    return _digests(head, [encoded(columns[name]) for name in names], len(next(iter(columns.values()))))


def input_hash(text: pa.Array, text_pair: pa.Array | None = None) -> Hashes:
    """Return the hash of the exact inputs of a model: what features and caches are keyed by."""
    inputs = [text] if text_pair is None else [text, text_pair]
    return _digests(b"input/1", [encoded(column) for column in inputs], len(text))


def content_key(text: pa.Array, text_pair: pa.Array | None = None) -> Hashes:
    """Return the hash of the normalised inputs: what finds duplicates, cuts splits and fills the ledger."""
    inputs = [text] if text_pair is None else [text, text_pair]
    normal = [[None if value is None else normalised(value).encode() for value in column.to_pylist()] for column in inputs]
    return _digests(b"content/1", [[_text(value) for value in column] for column in normal], len(text))


def row_key(identifier: pa.Array) -> Hashes:
    """Return the hash of an id column: the name of a row for good. Without an id the ``input_hash`` is the row key."""
    return _digests(b"id/1", [encoded(identifier)], len(identifier))


def group_key(group: pa.Array) -> Hashes:
    """Return the hash of a group column, so that equal groups get one split."""
    return _digests(b"group/1", [encoded(group)], len(group))


def split_points(keys: Hashes, salt: str) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each key: a function of key and salt alone, uniform over keys."""
    head = hashlib.sha256(b"split/1" + netstring(b"s", salt.encode()))
    raw = keys.tobytes()
    found = bytearray()
    for start in range(0, len(raw), 32):
        point = head.copy()
        point.update(raw[start : start + 32])
        found += point.digest()[:8]
    # 53 bits are what a float64 holds exactly; more could round up to 1.0.
    return (np.frombuffer(found, dtype=">u8") >> np.uint64(11)).astype(np.float64) / 2.0**53


def normalised(text: str) -> str:
    """Return ``text`` in Unicode NFKC, case folded, with each run of white space as one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def netstring(tag: bytes, payload: bytes) -> bytes:
    """Return ``payload`` with its kind and length in front."""
    return b"%b%d:%b" % (tag, len(payload), payload)


def encoded(column: pa.Array) -> list[bytes]:
    """Return each value as a netstring tagged with its kind; null has a tag of its own.

    Raises:
        BadInput: a type that has no such form (lists, structs, bytes).
    """
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [_text(value) for value in column.cast(pa.large_binary()).to_pylist()]
    write = _writer(kind)
    if pa.types.is_temporal(kind):
        column = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    return [b"n" if value is None else write(value) for value in column.to_pylist()]


def _writer(kind: pa.DataType) -> Callable[[Any], bytes]:
    types = pa.types
    if types.is_null(kind):
        return lambda value: b"n"  # noqa: ARG005
    if types.is_boolean(kind):
        return lambda value: b"b1:1" if value else b"b1:0"
    if types.is_integer(kind):
        return lambda value: netstring(b"i", b"%d" % value)
    if types.is_floating(kind):
        return lambda value: netstring(b"f", _float_bytes(float(value)))
    if types.is_date32(kind):
        return lambda value: netstring(b"d", b"%d" % value)
    if types.is_decimal(kind):
        return lambda value: netstring(b"c", _decimal_bytes(f"{value:f}"))
    if types.is_temporal(kind):
        factor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[getattr(kind, "unit", "ms")]
        # A time with a zone is a point on one line; one without is a reading of some clock.
        tag = b"z" if getattr(kind, "tz", None) else b"t"
        return lambda value: netstring(tag, b"%d" % (int(value) * factor))
    raise BadInput(
        "UNSUPPORTED_TYPE", f"values of type {kind} cannot be kept", "keep text, numbers, booleans, dates and times only"
    )


def _text(value: bytes | None) -> bytes:
    return b"n" if value is None else b"s%d:%b" % (len(value), value)


def _float_bytes(value: float) -> bytes:
    # One NaN and one zero, whatever their bits say.
    return b"nan" if math.isnan(value) else struct.pack(">d", value + 0.0)


def _decimal_bytes(text: str) -> bytes:
    # The scale is the column's, not the value's: 1.50 and 1.5 are one number.
    return (text.rstrip("0").rstrip(".") if "." in text else text).encode()


def _digests(head: bytes, columns: Sequence[Sequence[bytes]], rows: int) -> Hashes:
    start = hashlib.sha256(head)
    found = bytearray()
    for values in zip(*columns, strict=True):
        row = start.copy()
        row.update(b"".join(values))
        found += row.digest()
    assert len(found) == 32 * rows
    return np.frombuffer(bytes(found), dtype="S32")
