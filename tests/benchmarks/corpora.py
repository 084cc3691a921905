"""BBC News as rows for a benchmark: drawn by seed, written as a snapshot's parts for us and as JSON for the peers."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo.corpus import read_rows
from transfer_learning.blocks.data import hashing
from transfer_learning.hashes import fixed_binary

TEST_ROWS = 500


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Labelled texts to train on and to judge by."""

    name: str
    train: list[tuple[str, str]]
    test: list[tuple[str, str]]
    max_length: int


def headlines(labelled: int, draw: int) -> Corpus:
    """Return BBC News headlines, ``labelled`` of them for training; the test rows are the same in every draw."""
    return _drawn(f"headlines, {labelled} labels", "headlines", labelled, draw, max_length=64)


def articles(labelled: int, draw: int) -> Corpus:
    """Return whole BBC News articles, cut to 256 tokens."""
    return _drawn(f"articles, {labelled} labels", "articles", labelled, draw, max_length=256)


def _drawn(name: str, text: str, labelled: int, draw: int, max_length: int) -> Corpus:
    # Without repeated texts: nothing of the test set is trained on, by us or by a peer.
    rows = sorted({row.text: row.topic for row in read_rows(text)}.items())  # type: ignore[arg-type]
    random.Random(1).shuffle(rows)
    test, rest = rows[:TEST_ROWS], rows[TEST_ROWS:]
    random.Random(draw).shuffle(rest)
    return Corpus(name, rest[:labelled], test, max_length)


def write_parts(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """Write rows as one part of a snapshot's split and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = pa.array([text for text, _ in rows])
    columns = {
        "text": text,
        "label": pa.array([label for _, label in rows]),
        "_row_key": fixed_binary(hashing.input_hash(text)),
        "_row_hash": fixed_binary(hashing.input_hash(text)),
        "_input_hash": fixed_binary(hashing.input_hash(text)),
        "_content_key": fixed_binary(hashing.content_key(text)),
    }
    pq.write_table(pa.table(columns), folder / "part.parquet")
    return folder


def write_json(path: Path, corpus: Corpus) -> Path:
    """Write the same rows for a peer."""
    values = {"train": corpus.train, "test": corpus.test, "max_length": corpus.max_length}
    path.write_text(json.dumps(values), encoding="utf-8")
    return path
