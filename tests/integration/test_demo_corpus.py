"""The demo's corpus: sizes, splits and the same bytes everywhere."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from demo.corpus import Corpus, read_rows, write_corpus

pytestmark = pytest.mark.integration


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a CSV file by id."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


@pytest.fixture(scope="module")
def headlines(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("headlines"))


@pytest.fixture(scope="module")
def articles(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("articles"), "articles")


def test_the_corpus_has_2096_distinct_headlines_on_five_desks() -> None:
    rows = read_rows("headlines")
    assert len(rows) == 2096
    assert Counter(row.topic for row in rows) == {
        "business": 501,
        "sports": 500,
        "politics": 397,
        "entertainment": 365,
        "tech": 333,
    }


def test_the_golden_set_has_500_labelled_headlines_in_the_corpus_shares(headlines: Corpus) -> None:
    golden = rows_of(headlines.golden)
    assert Counter(row["topic"] for row in golden.values()) == {
        "business": 120, "sports": 119, "politics": 95, "entertainment": 87, "tech": 79
    }  # fmt: skip


def test_day_1_has_80_labels_and_day_2_adds_240_to_the_same_rows(headlines: Corpus) -> None:
    day_1, day_2 = (rows_of(path) for path in headlines.days)
    first, second = ({key for key, row in day.items() if row["topic"]} for day in (day_1, day_2))
    assert headlines.labelled == (len(first), len(second)) == (80, 320)
    assert first < second
    assert [(key, row["headline"]) for key, row in day_1.items()] == [(key, row["headline"]) for key, row in day_2.items()]
    assert all(day_1[key]["topic"] == day_2[key]["topic"] for key in first)
    assert {day_2[key]["topic"] for key in first} == {"business", "sports", "politics", "entertainment", "tech"}


def test_the_file_with_every_label_has_the_training_rows_of_day_2(headlines: Corpus) -> None:
    day_2, every = rows_of(headlines.days[1]), rows_of(headlines.all_labelled)
    assert all(row["topic"] for row in every.values())
    assert len(every) == 1596
    assert {key: row | {"topic": ""} for key, row in every.items()} == {key: row | {"topic": ""} for key, row in day_2.items()}
    assert all(every[key]["topic"] == row["topic"] for key, row in day_2.items() if row["topic"])


def test_headlines_bring_their_bodies_and_no_body_of_the_golden_set_stands_in_training(headlines: Corpus) -> None:
    golden, train = ([row["body"] for row in rows_of(path).values()] for path in (headlines.golden, headlines.days[1]))
    texts = [{" ".join(body.casefold().split()) for body in part if body} for part in (golden, train)]
    assert not texts[0] & texts[1]
    assert sum(map(len, train)) / len(train) > 2000
    assert 0 < sum(not body for body in train) < 30


@pytest.mark.parametrize("name", ["headlines", "articles"])
def test_no_text_stands_in_both_golden_and_training(name: str, request: pytest.FixtureRequest) -> None:
    corpus: Corpus = request.getfixturevalue(name)
    golden, train = rows_of(corpus.golden), rows_of(corpus.days[1])
    texts = [{" ".join(row[corpus.text_column].casefold().split()) for row in part.values()} for part in (golden, train)]
    assert not golden.keys() & train.keys()
    assert not texts[0] & texts[1]
    assert len(golden) + len(train) == len(texts[0]) + len(texts[1])


def test_articles_are_whole_all_labelled_and_more_on_day_2(articles: Corpus) -> None:
    day_1, day_2 = (rows_of(path) for path in articles.days)
    assert day_1.items() < day_2.items()
    assert articles.labelled == (len(day_1), len(day_2)) == (800, 1624)
    assert sum(len(row["article"]) for row in day_2.values()) / len(day_2) > 2000


def test_there_is_general_text_to_learn_a_language_from(headlines: Corpus) -> None:
    with headlines.general.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert len(texts) == len(set(texts)) > 50
    assert sum(len(text.split()) for text in texts) > 50_000


def test_the_files_are_the_same_bytes_each_time(headlines: Corpus, tmp_path: Path) -> None:
    again = write_corpus(tmp_path)
    files = ((corpus.golden, *corpus.days, corpus.all_labelled, corpus.general) for corpus in (headlines, again))
    pairs = zip(*files, strict=True)
    assert all(first.read_bytes() == second.read_bytes() for first, second in pairs)
