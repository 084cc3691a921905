"""Extract features of a frozen base model, for the rows that have none yet.

Inputs: ``base`` (one folder) and, for each split that the spec names, folders of Parquet parts (``train``, ``validation``,
``test``, ``unlabelled``). ``run.cache`` holds parts of earlier runs; new ones appear in ``run.new_cache`` while the stage runs.
Out: ``manifest.json`` with ``precision``, ``width``, ``rows``, ``computed``, ``found`` and ``parts``: those that together hold
every wanted row.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from transfer_learning.blocks import numerics
from transfer_learning.blocks.backbone import Backbone
from transfer_learning.blocks.base_model import load_base
from transfer_learning.blocks.base_tokenizer import length_within
from transfer_learning.blocks.batching import Tokens, tokenize
from transfer_learning.blocks.extraction import Extractor, extract, frozen_passes
from transfer_learning.blocks.feature_parts import Part, PartWriter, read_parts
from transfer_learning.blocks.model_folder import write_json
from transfer_learning.blocks.passes import batches_of
from transfer_learning.blocks.pooling import pooled_width
from transfer_learning.blocks.rows import part_files, read_texts
from transfer_learning.errors import BadInput, Stopped
from transfer_learning.feature_files import wanted_hashes
from transfer_learning.hashes import Hashes, joined
from transfer_learning.specs import FeatureSpec, TaskSpec
from transfer_learning.stage import Inputs, Run

WINDOW = 4096
WINDOW_CHARACTERS = 2_000_000
"""Rows, and characters of their texts, from which on what was read is tokenised and batched: enough of each length, seconds of
work, and memory that does not grow with the rows."""

ACCELERATED = 16
"""Times as large windows on an accelerator: its batches are that much larger, and there are to be full ones of each length."""

READ_ROWS = 512
"""Rows that are read at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Some rows that have no features yet."""

    hashes: Hashes
    texts: list[str]
    pairs: list[str] | None

    @property
    def characters(self) -> int:
        """Of all texts."""
        return sum(map(len, [*self.texts, *(self.pairs or ())]))

    @classmethod
    def of(cls, parts: Sequence[Window]) -> Window:
        """Return the rows of several."""
        pairs = None if parts[0].pairs is None else [pair for part in parts for pair in part.pairs or ()]
        return cls(joined(part.hashes for part in parts), [text for part in parts for text in part.texts], pairs)


Prepared = tuple[Window, Tokens]


def feature_extract(spec: FeatureSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Compute the features of every distinct input that no part in ``run.cache`` holds.

    Returns:
        Metrics: ``rows`` (distinct inputs), ``computed``, ``found``, ``tokens``, ``seconds`` and ``rows_per_second``.

    Raises:
        BadInput: data, layers or a base model that cannot work.
        OutOfMemory: a single row does not fit.
        Stopped: asked to; what was computed lies in ``run.new_cache``.
    """
    started = time.monotonic()
    task = spec.task or TaskSpec()
    run.numerics |= numerics.choose(spec.precision, run)
    precision = str(run.numerics["precision"])
    files = [path for split in spec.splits for path in part_files(inputs.get(split, ()))]
    wanted = wanted_hashes(files, spec.shard)
    if not len(wanted):
        raise BadInput("NO_ROWS", f"there is no row in {', '.join(spec.splits)}", "pull data that has some")
    cached = read_parts([run.cache] if run.cache else [], run, precision)
    missing = np.setdiff1d(wanted, joined(part.hashes for part in cached))
    writer = PartWriter(run.new_cache or out / "parts", precision, spec.dtype)
    width, tokens = 0, 0
    if len(missing):
        width, tokens = _compute(spec, task, inputs["base"][0], files, missing, writer, run)
    used = [part for part in cached if np.isin(part.hashes, wanted, kind="sort").any()]
    parts = [*used, *writer.written]
    manifest = {
        "precision": precision,
        "width": width or _width(used[0]),
        "rows": len(wanted),
        "computed": len(missing),
        "found": len(wanted) - len(missing),
        "parts": [part.entry() for part in parts],
    }
    write_json(out / "manifest.json", manifest)
    seconds = time.monotonic() - started
    counted = {name: manifest[name] for name in ("rows", "computed", "found")}
    return {**counted, "tokens": tokens, "seconds": round(seconds, 3), "rows_per_second": round(len(missing) / seconds, 1)}


def _compute(
    spec: FeatureSpec, task: TaskSpec, folder: Path, files: Sequence[Path], missing: Hashes, writer: PartWriter, run: Run
) -> tuple[int, int]:
    """Compute the missing rows, a window at a time, and return the width of the features and the tokens that were run."""
    device = str(run.numerics["device"])
    base = load_base(folder, [], "mean", seed=0)
    longest = length_within(spec.max_length, base.max_length, base.tokenizer, pairs=task.text_pair is not None)
    backbone = Backbone(base.model.to(device).eval())
    blocks = tuple(backbone.block_number(layer) for layer in spec.layers)
    spec.merged({"layers": blocks})  # a name and a number may be the same layer, which only the model can tell
    extractor = Extractor(backbone, blocks, spec.pooling, spec.normalize)
    started, done, tokens = time.monotonic(), 0, 0

    def tokenized(window: Window) -> Prepared:
        return window, tokenize(base.tokenizer, window.texts, window.pairs, longest, segments=backbone.has_segments)

    def poll(number: int, so_far: object) -> None:  # noqa: ARG001
        if run.stop_requested:
            writer.close_part()
            raise Stopped("STOPPED between two batches; the parts that were written are kept")

    with frozen_passes(base.model, device, str(run.numerics["precision"])) as passes:
        for window, batch in _one_ahead(tokenized, _windows(files, task, missing, ACCELERATED if device == "cuda" else 1)):

            def compute(rows: Sequence[int], batch: Tokens = batch) -> torch.Tensor:
                return extractor(batch.batch(rows, device))

            writer.add(window.hashes, extract(compute, batches_of(batch, device), passes, poll))
            done, tokens = done + len(window.hashes), tokens + len(batch.ids)
            pace = done / (time.monotonic() - started)
            run.progress(phase="features", step=done, steps=len(missing), rows_per_second=pace, eta=(len(missing) - done) / pace)
    writer.close_part()
    return pooled_width(backbone.width, spec.pooling) * len(blocks), tokens


def _one_ahead(work: Callable[[Window], Prepared], windows: Iterator[Window]) -> Iterator[Prepared]:
    """Yield ``work(window)`` while a thread works on the next one: the tokenizer computes outside Python's lock."""
    with ThreadPoolExecutor(1) as thread:
        ahead: Future[Prepared] | None = None
        for window in windows:
            following = thread.submit(work, window)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


def _windows(files: Sequence[Path], task: TaskSpec, missing: Hashes, times: int) -> Iterator[Window]:
    """Yield the rows whose hashes are missing, each once, in windows so many times as large as usual."""
    done = np.zeros(len(missing), dtype=bool)
    waiting: list[Window] = []
    count = characters = 0
    for path in files:
        for hashes, texts, pairs in read_texts(path, task, min(READ_ROWS, WINDOW)):
            places = np.minimum(np.searchsorted(missing, hashes), len(missing) - 1)
            fresh = (missing[places] == hashes) & ~done[places]
            _, first = np.unique(hashes, return_index=True)
            rows = np.intersect1d(np.flatnonzero(fresh), first)
            done[places[rows]] = True
            read = Window(hashes[rows], [texts[i] for i in rows], [pairs[i] for i in rows] if pairs is not None else None)
            waiting.append(read)
            count, characters = count + len(read.texts), characters + read.characters
            if count >= times * WINDOW or characters >= times * WINDOW_CHARACTERS:
                yield Window.of(waiting)
                waiting, count, characters = [], 0, 0
    if count:
        yield Window.of(waiting)


def _width(part: Part) -> int:
    return int(pq.read_schema(part.path).field("features").type.list_size)
