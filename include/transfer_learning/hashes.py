"""Hashes of files, and shards of hashes. Torch-free, so that both sides of a job compute the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_shard(hashes: npt.NDArray[np.bytes_], shard: Sequence[int]) -> npt.NDArray[Any]:
    """Return which hashes (dtype ``S32``) belong to shard ``(i, n)``: a function of each hash alone."""
    number, shards = shard
    leading = np.frombuffer(hashes.tobytes(), dtype=">u8").reshape(-1, 4)[:, 0]
    return np.asarray(leading % np.uint64(shards) == np.uint64(number))
