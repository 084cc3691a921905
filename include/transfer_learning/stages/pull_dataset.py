"""Stage ``pull_dataset``: from staged files to a snapshot with splits, in two passes and bounded memory. Torch-free.

1. Every header is read and checked before any row.
2. Rows are read once: policies applied, hashes kept in memory, rows spooled to disk.
3. Splits, copies and leaks are settled on the hashes alone.
4. Rows that no part of the snapshot before holds go to new parts; the manifest is written last.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transfer_learning.blocks.data import label_checks
from transfer_learning.blocks.data.columns import aligned, common_schema, kept_columns, read_columns, refuse_changed_roles
from transfer_learning.blocks.data.hashing import HASH_COLUMNS
from transfer_learning.blocks.data.intake import Intake
from transfer_learning.blocks.data.readers import batches, header, staged_files
from transfer_learning.blocks.data.row_table import RowTable, RowTableBuilder
from transfer_learning.blocks.data.selection import Selection, refuse_conflicting_ids, select
from transfer_learning.blocks.data.snapshot_parts import Part, Spool, kept_parts, snapshot_digest, split_digests, write_parts
from transfer_learning.blocks.data.source_file import Reading, SourceFile
from transfer_learning.blocks.data.splits import SPLITS, TEST, assign, resolve_rule
from transfer_learning.blocks.data.text_files import known_encoding
from transfer_learning.disk import room_for
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.specs import PullSpec
from transfer_learning.stage import Inputs, Run

FORMAT = 1
"""Of ``manifest.json``."""

HASHED_ROLES = ("id", "text", "text_pair", "label")
"""Column roles that decide a row's key and hashes, and whether it has a label."""


def pull_dataset(spec: PullSpec, inputs: Inputs, out: Path, run: Run) -> Mapping[str, Any]:
    """Make a snapshot: ``out/manifest.json`` and ``out/parts/<sha256>.parquet`` for new parts only.

    Args:
        spec: what to keep and how to split it.
        inputs: ``source``, a folder of ``sources.stage_sources``; optionally ``previous``, the latest snapshot's folder.
        out: empty folder; stays empty when anything is wrong.
        run: its facts hold ``as_of``, ``window``, the standing ``rule`` and ``reset``.

    Returns:
        ``rows``, ``new_rows``, ``new_parts``, ``kept_parts``, ``bytes_written``, ``seconds``.

    Raises:
        BadInput: one line for anything in the data or in the settings that cannot be meant.
        Stopped: asked to stop; nothing is written.
    """
    started = time.monotonic()
    known_encoding(spec.encoding)
    if spec.split.key == "time" and not run.facts.get("as_of"):
        raise BadInput("BAD_JOB", "a split by time needs the run's own time", "give the fact as_of", file=spec.name)
    files = [file for folder in inputs["source"] for file in staged_files(folder)]
    previous = _previous_manifest(inputs)
    with tempfile.TemporaryDirectory(dir=out, prefix=".pull-") as work, room_for(out, lambda: _bytes_needed(files, Path(work))):
        table, spool, intake = read_rows(spec, files, Path(work), run)
        snapshot = settle(spec, files, table, spool, intake, previous, run)
        kept, covered = _kept(inputs, previous, table, snapshot)
        run.progress(phase="write", rows=int((~covered).sum()))
        parts_folder = Path(work) / "parts"
        parts_folder.mkdir()
        new = write_parts(spool, table, snapshot.selection, covered, parts_folder)
        manifest = snapshot.manifest | {"parts": _sorted_parts([*kept, *new])}
        (Path(work) / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        parts_folder.replace(out / "parts")
        (Path(work) / "manifest.json").replace(out / "manifest.json")
    return {
        "rows": len(snapshot.selection.places),
        "new_rows": sum(part.rows for part in new),
        "new_parts": len(new),
        "kept_parts": len(kept),
        "bytes_written": sum(part.bytes for part in new),
        "seconds": time.monotonic() - started,
    }


def _bytes_needed(files: Sequence[SourceFile], work: Path) -> int:
    """Return how much room a pull takes at least: its rows once as they are spooled, and once as they are dealt into parts."""
    spooled = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    return 2 * max(spooled, sum(path.stat().st_size for file in files for path in file.paths))


def read_rows(spec: PullSpec, files: Sequence[SourceFile], work: Path, run: Run) -> tuple[RowTable, Spool, Intake]:
    """Read every file once: hashes into memory, rows to disk.

    Raises:
        BadInput: see the readers and ``Intake``; or no row is left.
        Stopped: asked to stop.
    """
    kept = kept_columns(spec)
    task = spec.task
    reading = Reading(read_columns(spec), spec.encoding, spec.delimiter, task.text, task.label, task.id)
    schemas = [header(file, reading) for file in files]
    schema = common_schema(files, schemas, spec)
    spool_schema = pa.schema([*(schema.field(name) for name in kept), *(pa.field(name, pa.binary(32)) for name in HASH_COLUMNS)])
    spool, builder = Spool(work / "rows.arrow", spool_schema), RowTableBuilder(spec, kept)
    intake = Intake(spec, _window(run), _time(run.facts.get("as_of")))
    read = 0
    for number, (file, file_schema) in enumerate(zip(files, schemas, strict=True)):
        first_row = 1
        for batch in batches(file, reading, file_schema):
            if run.stop_requested:
                raise Stopped("STOPPED while reading rows — a retry begins again")
            rows, numbers, times = intake.admitted(file, aligned(file, batch, first_row, schema), first_row)
            if rows.num_rows:
                spool.add(builder.add(number, file, rows, numbers, times))
            first_row += batch.num_rows
            read += batch.num_rows
            run.progress(phase="read", rows=read, files=number)
    spool.close()
    intake.refuse()
    if sum(intake.dropped.values()) == read:
        counts = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in intake.dropped.items() if count)
        raise BadInput(
            "NO_ROWS", f"none of {read} rows is left: {counts}", "widen the window, or bring other rows", file=spec.name
        )
    return builder.finish(), spool, intake


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot will hold, before any part is written."""

    selection: Selection
    manifest: dict[str, Any]
    """Everything but its parts."""


def settle(
    spec: PullSpec,
    files: Sequence[SourceFile],
    table: RowTable,
    spool: Spool,
    intake: Intake,
    previous: Mapping[str, Any] | None,
    run: Run,
) -> Snapshot:
    """Decide rule, splits and rows, and say all that there is to say about them.

    Raises:
        BadInput: ids with several contents, labels that look alike, a changed rule or type, a class too small.
    """
    reset = bool(run.facts.get("reset"))
    task, as_of = spec.task, _time(run.facts.get("as_of"))
    schema = {name: str(spool.schema.field(name).type) for name in kept_columns(spec)}
    changes = refuse_changed_roles(spec.name, schema, task, previous["schema"]) if previous and not reset else []
    if task.id:
        refuse_conflicting_ids(table, task.id, files)
    label_checks.refuse_near_duplicates(table, task.label, spec.name)
    # Rows of the source's own test split are not there to be cut.
    labelled = int((table.labelled & (table.given < TEST)).sum())
    standing = None if reset else run.facts.get("rule")
    rule = resolve_rule(spec, standing, labelled_rows=labelled, given=set(table.given.tolist()))
    split = assign(rule, table.point, given=table.given, times=table.time, as_of=as_of)
    selection = select(table, split)
    counts = label_checks.count_labels(table, selection)
    notes = label_checks.refuse_small_classes(counts, spec, test_is_cut=rule["test"] > 0)
    texts = spool.values(task.text, label_checks.contradicting_places(table, selection))
    contradictions = label_checks.contradiction_notes(table, selection, texts, own_ids=task.id is not None)
    notes = label_checks.general_notes(counts, selection, contradictions, grouped=table.group is not None) + notes + changes
    manifest = {
        "format": FORMAT,
        "name": spec.name,
        "digest": snapshot_digest(table, selection, schema, task.canonical(), rule),
        "schema": schema,
        "task": task.to_dict(),
        "rule": rule,
        "rows": len(selection.places),
        "splits": _count_splits(table, selection),
        "labels": counts,
        "dropped": intake.dropped | selection.dropped,
        "notes": notes,
        "split_digests": split_digests(table, selection, schema),
        "window": run.facts.get("window"),
    }
    return Snapshot(selection, manifest)


def _kept(
    inputs: Inputs, previous: Mapping[str, Any] | None, table: RowTable, snapshot: Snapshot
) -> tuple[list[Part], npt.NDArray[np.bool_]]:
    # Parts of one snapshot have one schema, and keys and hashes of the same columns.
    if previous is None or _part_form(previous) != _part_form(snapshot.manifest):
        return [], np.zeros(len(snapshot.selection.places), dtype=bool)
    return kept_parts(inputs["previous"][0], previous, table, snapshot.selection)


def _part_form(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the columns of a snapshot's parts follow from."""
    return {"schema": manifest["schema"]} | {role: manifest["task"].get(role) for role in HASHED_ROLES}


def _count_splits(table: RowTable, selection: Selection) -> dict[str, int]:
    labelled = table.labelled[selection.places]
    counts = {name: int((labelled & (selection.split == code)).sum()) for code, name in enumerate(SPLITS)}
    return counts | {"unlabelled": int((~labelled).sum())}


def _sorted_parts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(part) for part in sorted(parts, key=lambda p: (p.split, not p.labelled, p.sha256))]


def _previous_manifest(inputs: Inputs) -> Mapping[str, Any] | None:
    folders = inputs.get("previous", ())
    if not folders:
        return None
    manifest: Mapping[str, Any] = json.loads((folders[0] / "manifest.json").read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        what = f"the last snapshot has format {manifest.get('format')}, known is {FORMAT}"
        raise BadInput("UNKNOWN_FORMAT", what, "use the newer release", file=folders[0] / "manifest.json")
    return manifest


def _window(run: Run) -> tuple[dt.datetime, dt.datetime] | None:
    window = run.facts.get("window")
    if not window:
        return None
    start, end = _time(window["start"]), _time(window["end"])
    assert start is not None
    assert end is not None
    return start, end


def _time(text: str | None) -> dt.datetime | None:
    return None if text is None else dt.datetime.fromisoformat(text)
