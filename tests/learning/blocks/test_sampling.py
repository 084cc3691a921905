"""Drawing some of the training rows, as a learning curve does."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from learning.tiny_model import make_rows, write_rows
from transfer_learning.blocks.rows import Rows, read_rows
from transfer_learning.blocks.sampling import drawing_order, stratified
from transfer_learning.errors import BadInput
from transfer_learning.specs import TaskSpec


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """60 rows: 40 of sport, 16 of business, 4 of film."""
    wanted = {"sport": 40, "business": 16, "film": 4}
    made = [row for row in make_rows(200) if row[1] in wanted]
    chosen = [row for topic, count in wanted.items() for row in [r for r in made if r[1] == topic][:count]]
    return read_rows([write_rows(tmp_path / "train", chosen)], TaskSpec(text="text", label="label"))


def test_a_larger_draw_holds_every_smaller_one(rows: Rows) -> None:
    draws = [set(stratified(rows, count, seed=3).row_keys) for count in range(3, 61)]

    assert [len(draw) for draw in draws] == list(range(3, 61))
    assert all(small < large for small, large in itertools.pairwise(draws))


@pytest.mark.parametrize(
    ("count", "shares"),
    [(3, (1, 1, 1)), (15, (10, 4, 1)), (30, (20, 8, 2)), (60, (40, 16, 4))],
)
def test_each_label_has_its_share_and_at_least_one_row(rows: Rows, count: int, shares: tuple[int, int, int]) -> None:
    counts = Counter(stratified(rows, count, seed=0).labels)

    assert (counts["sport"], counts["business"], counts["film"]) == shares


def test_the_rows_keep_their_order_and_nothing_decides_but_key_and_seed(rows: Rows) -> None:
    turned = rows.select(np.arange(len(rows))[::-1].copy())

    first, again, other = stratified(rows, 20, 1), stratified(turned, 20, 1), stratified(rows, 20, 2)

    assert first.row_keys == sorted(first.row_keys)
    assert set(first.row_keys) == set(again.row_keys) != set(other.row_keys)
    texts = dict(zip(rows.row_keys, rows.texts, strict=True))
    assert first.texts == [texts[key] for key in first.row_keys]


@pytest.mark.parametrize(
    ("count", "line"),
    [
        (61, "TOO_FEW_ROWS train_rows is 61, and there are 60 — take fewer, or label more"),
        (2, "BAD_SETTING train_rows is 2, and there are 3 labels — take one row of each at least"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line(rows: Rows, count: int, line: str) -> None:
    with pytest.raises(BadInput) as refused:
        stratified(rows, count, seed=0)

    assert str(refused.value) == line


def test_a_row_without_its_like_is_drawn_as_it_is(rows: Rows) -> None:
    single = dataclasses.replace(rows, labels=["sport", *["business"] * 59])

    assert Counter(stratified(single, 2, seed=0).labels) == {"sport": 1, "business": 1}


def test_the_first_of_each_label_come_before_all_others(rows: Rows) -> None:
    order = drawing_order(rows, seed=0, first=4)

    assert Counter(rows.labels[place] for place in order[:12]) == {"sport": 4, "business": 4, "film": 4}
    assert sorted(order) == list(range(60))
