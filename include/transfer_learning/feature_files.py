"""Parts of features as files, what they are called and which inputs they hold. Torch-free: the store and the stage share it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from transfer_learning.hashes import Hashes, from_fixed_binary, in_shard, joined
from transfer_learning.parquet_files import readable, require_columns

PART = re.compile(r"part-(?P<stem>(?P<precision>fp32|bf16)-(?P<sha256>[0-9a-f]{64}))\.parquet", re.ASCII)
"""Features of some rows: the arithmetic that made them, and the hash of the file."""


def part_name(precision: str, sha256: str) -> str:
    """Return the name of a part."""
    return f"part-{precision}-{sha256}.parquet"


def read_hashes(path: Path, column: str = "input_hash") -> Hashes:
    """Return a column of ``binary(32)`` of a Parquet file."""
    # Not by read_table: it reads a data set, of which folders called a=b are columns, and imports pandas.
    return from_fixed_binary(pq.ParquetFile(path).read([column])[column])


def wanted_hashes(files: Iterable[Path], shard: Sequence[int]) -> Hashes:
    """Return the distinct inputs of a snapshot's parts that belong to shard ``(i, n)``, sorted.

    Raises:
        BadInput: a part that cannot be read, or that has no hashes.
    """
    hashes = np.unique(joined(map(_input_hashes, files)))
    wanted: Hashes = hashes[in_shard(hashes, shard)]
    return wanted


def _input_hashes(path: Path) -> Hashes:
    with readable(path):
        require_columns(["_input_hash"], pq.read_schema(path).names, path)
        return read_hashes(path, "_input_hash")
