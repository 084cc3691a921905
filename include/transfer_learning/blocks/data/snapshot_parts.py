"""A snapshot on disk: rows spooled once while they are read, then dealt into Parquet parts named by their own hash."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transfer_learning.blocks.data.row_table import Integers, RowTable
from transfer_learning.blocks.data.selection import Selection
from transfer_learning.blocks.data.splits import SPLITS, TEXTS
from transfer_learning.hashes import from_fixed_binary, sha256_of
from transfer_learning.settings import canonical_json

PART_ROWS = 65_536
PART_BYTES = 64 * 2**20
"""A part ends with whichever comes first, so that one part fits in memory many times over."""

OPEN_BUCKETS = 128
"""Parts that are dealt out in one pass over the spool: each has a file open."""


class Spool:
    """Rows on disk in the order in which they were read, as one Arrow IPC file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._writer = pa.ipc.new_file(path, schema)
        self.schema = schema

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write the footer; rows can be read afterwards."""
        self._writer.close()

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield each batch with the place of its first row; one batch is in memory at a time."""
        place = 0
        with pa.OSFile(str(self._path)) as raw, pa.ipc.open_file(raw) as file:
            for index in range(file.num_record_batches):
                batch = file.get_batch(index)
                yield place, batch
                place += batch.num_rows

    def values(self, column: str, places: Sequence[int]) -> dict[int, Any]:
        """Return the value of a column at a few places."""
        found: dict[int, Any] = {}
        for start, batch in self.batches() if places else ():
            here = [place for place in places if start <= place < start + batch.num_rows]
            found |= {place: batch.column(column)[place - start].as_py() for place in here}
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a snapshot: rows of one split, all labelled or all not."""

    sha256: str
    bytes: int
    rows: int
    split: str
    labelled: bool


def snapshot_digest(
    table: RowTable, selection: Selection, schema: Mapping[str, str], roles: Mapping[str, Any], rule: Mapping[str, Any]
) -> str:
    """Return the sha256 over schema, column roles, rule and sorted (row key, row hash, split): what a manifest means.

    Bytes and order of files do not matter. The roles do: the same columns with another label column are another dataset.
    """
    cut = {field: value for field, value in rule.items() if field != TEXTS}  # the roles say the same
    digest = hashlib.sha256(canonical_json({"schema": schema, "roles": roles, "rule": cut}).encode())
    _add_rows(digest, table, selection.places, selection.split)
    return digest.hexdigest()


def split_digests(table: RowTable, selection: Selection, schema: Mapping[str, str]) -> dict[str, str]:
    """Return a digest of the labelled rows of each split, and of all rows without a label; none for what is empty."""
    labelled = table.labelled[selection.places]
    chosen = {name: labelled & (selection.split == code) for code, name in enumerate(SPLITS)} | {"unlabelled": ~labelled}
    digests = {}
    for name, rows in chosen.items():
        if rows.any():
            digest = hashlib.sha256(canonical_json({"schema": schema, "split": name}).encode())
            _add_rows(digest, table, selection.places[rows], selection.split[rows])
            digests[name] = digest.hexdigest()
    return digests


def kept_parts(
    previous: Path, manifest: Mapping[str, Any], table: RowTable, selection: Selection
) -> tuple[list[Part], npt.NDArray[np.bool_]]:
    """Find the parts of the snapshot before whose rows are all still there, unchanged.

    Args:
        previous: folder of the snapshot before.
        manifest: its manifest.
        table: all admitted rows.
        selection: the rows of the new snapshot.

    Returns:
        These parts, and which of the selected rows they hold.
    """
    keys, hashes = table.row_key[selection.places], table.row_hash[selection.places]
    covered = np.zeros(len(keys), dtype=bool)
    kept = []
    for part in (Part(**entry) for entry in manifest["parts"]):
        folder = part.split if part.labelled else f"unlabelled-{part.split}"
        old = pq.ParquetFile(previous / folder / f"{part.sha256}.parquet").read(["_row_key", "_row_hash"])
        old_keys = from_fixed_binary(old.column("_row_key"))
        at = np.minimum(np.searchsorted(keys, old_keys), max(0, len(keys) - 1))
        same = (keys[at] == old_keys) & (hashes[at] == from_fixed_binary(old.column("_row_hash")))
        if (same & (selection.split[at] == SPLITS.index(part.split))).all():
            covered[at] = True
            kept.append(part)
    return kept, covered


def write_parts(spool: Spool, table: RowTable, selection: Selection, covered: npt.NDArray[np.bool_], folder: Path) -> list[Part]:
    """Write every selected row that no kept part holds into new parts, sorted by row key.

    Args:
        spool: the rows.
        table: what is known of them.
        selection: which to write.
        covered: which of the selected rows are in kept parts.
        folder: gets ``<sha256>.parquet`` files.
    """
    bucket = np.full(len(table), -1, dtype=np.int64)
    kinds: list[tuple[str, bool]] = []
    labelled = table.labelled[selection.places]
    for code, split in enumerate(SPLITS):
        for has_label in (True, False):
            places = selection.places[~covered & (selection.split == code) & (labelled == has_label)]
            if len(places):
                numbers = _cut(table.size[places])
                bucket[places] = numbers + len(kinds)
                kinds += [(split, has_label)] * (int(numbers[-1]) + 1)
    parts = []
    for first in range(0, len(kinds), OPEN_BUCKETS):
        some = range(first, min(first + OPEN_BUCKETS, len(kinds)))
        _deal(spool, bucket, some, folder)
        parts += [_write_part(folder / f"{number}.arrow", *kinds[number]) for number in some]
    return parts


def _cut(sizes: Integers) -> Integers:
    """Return the part of each row: consecutive rows up to the limits of a part."""
    rows, size = np.arange(len(sizes)) // PART_ROWS, np.cumsum(sizes) // PART_BYTES
    new = np.zeros(len(sizes), dtype=np.int64)
    new[1:] = (rows[1:] != rows[:-1]) | (size[1:] != size[:-1])
    return np.cumsum(new)


def _deal(spool: Spool, bucket: Integers, numbers: range, folder: Path) -> None:
    """Copy each row to the file of its bucket, in one pass over the spool."""
    with contextlib.ExitStack() as stack:
        writers = {n: stack.enter_context(pa.ipc.new_stream(folder / f"{n}.arrow", spool.schema)) for n in numbers}
        for start, batch in spool.batches():
            here = bucket[start : start + batch.num_rows]
            order = np.argsort(here, kind="stable")
            order = order[(here[order] >= numbers.start) & (here[order] < numbers.stop)]
            if not len(order):
                continue
            found, starts = np.unique(here[order], return_index=True)
            taken = batch.take(pa.array(order))
            for number, begin, end in zip(found, starts, [*starts[1:], len(order)], strict=True):
                writers[int(number)].write_batch(taken.slice(begin, end - begin))


def _write_part(bucket: Path, split: str, labelled: bool) -> Part:
    with pa.OSFile(str(bucket)) as raw, pa.ipc.open_stream(raw) as stream:
        rows = stream.read_all()
    rows = rows.take(pc.sort_indices(rows.column("_row_key").cast(pa.binary())))
    target = bucket.with_suffix(".parquet")
    # Hashes never repeat: a dictionary of them would cost time and bytes.
    texts = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    pq.write_table(rows, target, compression="zstd", use_dictionary=texts, row_group_size=PART_ROWS)
    bucket.unlink()
    sha256, size = sha256_of(target), target.stat().st_size
    target.replace(target.with_name(f"{sha256}.parquet"))
    return Part(sha256, size, rows.num_rows, split, labelled)


def _add_rows(digest: hashlib._Hash, table: RowTable, places: Integers, split: npt.NDArray[np.int8]) -> None:
    form = np.dtype([("key", "S32"), ("hash", "S32"), ("split", "i1")])
    for start in range(0, len(places), PART_ROWS):
        chunk = places[start : start + PART_ROWS]
        rows = np.empty(len(chunk), dtype=form)
        rows["key"], rows["hash"], rows["split"] = table.row_key[chunk], table.row_hash[chunk], split[start : start + PART_ROWS]
        digest.update(rows.tobytes())
