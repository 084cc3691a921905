"""Hashes of files, and of rows as NumPy and Arrow hold them. Torch-free, so that both sides of a job compute the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Hashes = npt.NDArray[np.bytes_]
"""One 32-byte digest for each row, dtype ``S32``: sorts and compares as unsigned bytes."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def texts_digest(files: Iterable[Path], columns: Sequence[str]) -> str:
    """Return the SHA-256, in hex, over row keys and texts: neither the other columns, such as labels, nor the parts change it.

    Args:
        files: a snapshot's Parquet parts.
        columns: names of the texts; one that a part lacks counts as missing in its rows.
    """
    rows: list[bytes] = []
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(columns=["_row_key", *columns]):
            for row in batch.to_pylist():
                texts = [row.get(column) for column in columns]
                rows.append(hashlib.sha256(row["_row_key"] + json.dumps(texts, default=str).encode()).digest())
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def in_shard(hashes: Hashes, shard: Sequence[int]) -> npt.NDArray[Any]:
    """Return which hashes (dtype ``S32``) belong to shard ``(i, n)``: a function of each hash alone."""
    number, shards = shard
    leading = np.frombuffer(hashes.tobytes(), dtype=">u8").reshape(-1, 4)[:, 0]
    return np.asarray(leading % np.uint64(shards) == np.uint64(number))


def fixed_binary(hashes: Hashes) -> pa.Array:
    """Return hashes as an Arrow array of ``binary(32)``."""
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(hashes), [None, pa.py_buffer(hashes.tobytes())])


def from_fixed_binary(column: pa.Array | pa.ChunkedArray) -> Hashes:
    """Return an Arrow column of ``binary(32)`` as hashes."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return joined(_fixed_chunk(chunk) for chunk in chunks)


def joined(parts: Iterable[Hashes]) -> Hashes:
    """Return several arrays of hashes as one, also when there is none."""
    return np.concatenate([np.empty(0, dtype="S32"), *parts])


def _fixed_chunk(chunk: pa.Array) -> Hashes:
    raw = chunk.buffers()[1]
    if raw is None:
        return np.empty(0, dtype="S32")
    return np.frombuffer(raw, dtype="S32", count=len(chunk), offset=32 * chunk.offset)
