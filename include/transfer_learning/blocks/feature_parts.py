"""Features on disk: immutable Parquet parts keyed by the hash of a row's input, named by arithmetic and content."""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from transfer_learning.disk import room_for
from transfer_learning.errors import BadInput
from transfer_learning.feature_files import PART, part_name, read_hashes
from transfer_learning.hashes import Hashes, fixed_binary, joined, sha256_of
from transfer_learning.stage import Run

PART_BYTES = 8 << 20
"""A part is closed by the rows with which its features take this much: about as much again is needed to write it."""

GROUP_ROWS = 1024
"""Rows to a row group: writing takes memory for each number in one, beside the numbers."""

PART_SECONDS = 30.0
"""A part is closed by the first rows that come after this long, so that a killed extraction loses little more than that."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One part and the inputs it holds."""

    path: Path
    hashes: Hashes

    def entry(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        matched = PART.fullmatch(self.path.name)
        assert matched is not None
        size = self.path.stat().st_size
        return {"name": self.path.name, "bytes": size, "sha256": matched["sha256"], "rows": len(self.hashes)}


def read_parts(folders: Iterable[Path], run: Run, precision: str | None = None) -> list[Part]:
    """Return the whole parts below ``folders``, in order of name; a damaged one is named in the log and left out.

    Args:
        folders: those that do not exist hold none.
        run: hears of damaged parts.
        precision: of the arithmetic that made them; None takes every part.
    """
    parts = []
    for path in sorted({path for folder in folders for path in folder.glob("part-*.parquet")}, key=lambda path: path.name):
        matched = PART.fullmatch(path.name)
        if matched is None or precision not in (None, matched["precision"]):
            continue
        if sha256_of(path) != matched["sha256"]:
            log.warning("FEATURES DAMAGED %s is not what its name says, and is left out", path.name)
            run.progress(phase="features", damaged=path.name, reason="not what its name says: left out")
            continue
        parts.append(Part(path, read_hashes(path)))
    return parts


def lookup(parts: Sequence[Part], wanted: Hashes, width: int) -> torch.Tensor:
    """Return the features of ``wanted`` in that order, fp32 (rows, width).

    Raises:
        BadInput: rows that no part holds, or features of another width.
    """
    features, found = find(parts, wanted, width)
    if not found.all():
        what = f"{int((~found).sum())} of {len(wanted)} rows have no features in what was given"
        raise BadInput("MISSING_FEATURES", what, "extract the features of this very snapshot, all shards of it")
    return features


def find(parts: Sequence[Part], wanted: Hashes, width: int) -> tuple[torch.Tensor, npt.NDArray[np.bool_]]:
    """Return the features of ``wanted`` in that order, fp32 (rows, width), and for each row whether a part holds it.

    Raises:
        BadInput: features of another width.
    """
    distinct, inverse = np.unique(wanted, return_inverse=True)
    found = np.zeros(len(distinct), dtype=bool)
    features = np.empty((len(distinct), width), dtype=np.float32)
    for part in parts:
        places = np.minimum(np.searchsorted(distinct, part.hashes), len(distinct) - 1)
        hit = distinct[places] == part.hashes
        features[places[hit]] = _values(part.path, width)[hit]
        found[places[hit]] = True
    return torch.from_numpy(features[inverse]), found[inverse]


class PartWriter:
    """Collects features and writes them as parts; a part appears whole or not at all.

    Args:
        folder: made when it is missing.
        precision: of the arithmetic, for the names.
        dtype: ``float32`` or ``float16``.
    """

    def __init__(self, folder: Path, precision: str, dtype: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._precision, self._dtype = folder, precision, np.dtype(dtype)
        self._hashes: list[Hashes] = []
        self._features: list[npt.NDArray[Any]] = []
        self._opened = time.monotonic()
        self.written: list[Part] = []

    def add(self, hashes: Hashes, features: torch.Tensor) -> None:
        """Take the features of some rows, (rows, width).

        Raises:
            BadInput: NaN or infinity, or what is that as float16.
        """
        with np.errstate(over="ignore"):  # told below
            values = features.numpy().astype(self._dtype, copy=False)
        if not np.isfinite(values).all():
            narrow = self._dtype == np.float16 and bool(torch.isfinite(features).all())
            what = "features above 65,504 do not fit into float16" if narrow else "the base model gives NaN or infinity"
            raise BadInput("NOT_FINITE", what, "set dtype='float32'" if narrow else "use another one, or precision='fp32'")
        self._hashes.append(hashes)
        self._features.append(values)
        if sum(values.nbytes for values in self._features) >= PART_BYTES or time.monotonic() - self._opened >= PART_SECONDS:
            self.close_part()

    def close_part(self) -> None:
        """Write what was taken since the last part, if anything."""
        if self._hashes:
            hashes, values = joined(self._hashes), np.concatenate(self._features)
            self.written.append(self._write(hashes, values))
        self._hashes, self._features, self._opened = [], [], time.monotonic()

    def _write(self, hashes: Hashes, values: npt.NDArray[Any]) -> Part:
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        temporary = self._folder / f".{uuid.uuid4().hex}.part"
        with room_for(temporary, values.nbytes):
            table = pa.table([fixed_binary(hashes), column], names=["input_hash", "features"])
            # Numbers of a model repeat no values and hardly compress.
            pq.write_table(table, temporary, compression="none", use_dictionary=False, row_group_size=GROUP_ROWS)
        path = self._folder / part_name(self._precision, sha256_of(temporary))
        temporary.replace(path)
        return Part(path, hashes)


def _values(path: Path, width: int) -> npt.NDArray[Any]:
    """Return a part's features, (rows, width)."""
    column = pq.ParquetFile(path).read(["features"])["features"].combine_chunks()
    found = column.type.list_size
    if found != width:
        raise BadInput("WRONG_FEATURES", f"its features have {found} numbers, expected {width}", "extract them again", file=path)
    return np.asarray(column.flatten()).reshape(-1, width)
