"""What a training takes that goes on from an earlier version."""

import dataclasses
import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transfer_learning.blocks.replay import mix, new_share
from transfer_learning.blocks.rows import Rows, concat
from transfer_learning.errors import BadInput


def key(number):
    return hashlib.sha256(f"row {number}".encode()).digest()


def rows(numbers, label=str):
    numbers = sorted(numbers, key=key)
    labels = [label(number % 3) for number in numbers]
    return Rows(
        texts=[f"text {n}" for n in numbers],
        pairs=None,
        labels=[str(value) for value in labels],
        label_values=tuple(sorted(set(labels))),
        row_keys=[key(n) for n in numbers],
        content_keys=[hashlib.sha256(f"content {n}".encode()).digest() for n in numbers],
        slices={},
    )


def ledger(folder, numbers):
    folder.mkdir()
    known = rows(numbers)
    columns = {"row_key": pa.array(known.row_keys, pa.binary(32)), "content_key": pa.array(known.content_keys, pa.binary(32))}
    pq.write_table(pa.table(columns), folder / "news-000001.parquet")
    return [folder]


def numbers_of(found):
    return {int(text.split()[1]) for text in found.texts}


@pytest.mark.parametrize(("share", "drawn"), [(0.0, 0), (0.2, 5), (0.5, 20), (0.9, 80)])
def test_every_new_row_trains_and_older_ones_in_the_share_asked_for(tmp_path, share, drawn):
    found, mixture = mix(rows(range(100)), None, ledger(tmp_path / "ledger", range(80)), share, seed=0)

    assert numbers_of(found) >= set(range(80, 100))
    assert (mixture.new, mixture.older, mixture.of) == (20, drawn, 80)
    assert len(found) == 20 + drawn
    assert found.row_keys == sorted(found.row_keys)


def test_what_is_new_is_a_share_of_all_that_was_ever_learned_also_of_rows_that_are_gone(tmp_path):
    known = [*ledger(tmp_path / "first", range(60)), *ledger(tmp_path / "second", range(40, 80))]

    assert new_share(rows(range(70, 100)), known) == 0.2


@pytest.mark.parametrize(("numbers", "known", "share"), [(range(80), range(80), 0.0), (range(20), [], 1.0)])
def test_nothing_new_and_nothing_learned_are_shares_too(tmp_path, numbers, known, share):
    folders = ledger(tmp_path / "ledger", known) if known else []

    assert new_share(rows(numbers), folders) == share


def test_the_draw_is_the_seeds_and_stays_when_rows_are_added(tmp_path):
    known = ledger(tmp_path / "ledger", range(80))
    first, again, other = (numbers_of(mix(rows(range(100)), None, known, 0.5, seed)[0]) for seed in (1, 1, 2))
    later = numbers_of(mix(rows(range(101)), None, known, 0.5, 1)[0])

    assert first == again != other
    assert first < later


def test_rows_of_another_dataset_are_older_ones_and_none_comes_twice(tmp_path):
    found, mixture = mix(rows(range(90, 110)), rows(range(100)), [], 0.5, seed=0)

    assert (mixture.new, mixture.older, mixture.of) == (20, 20, 90)
    assert len(set(found.row_keys)) == len(found) == 40


def test_older_rows_that_are_to_judge_do_not_train():
    train, validation = rows(range(90, 100)), rows(range(20))
    same_text = dataclasses.replace(rows([200]), content_keys=rows([5]).content_keys)
    corrected = dataclasses.replace(rows([6]), content_keys=rows([206]).content_keys)
    older = concat(concat(rows([*range(6), *range(7, 40)]), same_text), corrected)

    found, mixture = mix(train, older, [], 0.9, 0, validation)

    assert numbers_of(found) == {*range(90, 100), *range(20, 40)}
    assert mixture.of == 20


@pytest.mark.parametrize(("share", "labels"), [(0.5, 2), (0.0, 1)])
def test_few_new_rows_of_one_label_get_an_older_row_of_another_one(tmp_path, share, labels):
    known = ledger(tmp_path / "ledger", range(60))
    for new in range(60, 72):
        found, mixture = mix(rows([*range(60), new]), None, known, share, seed=0)

        assert len(set(found.labels)) >= labels
        assert mixture.older == len(found) - 1 <= 2


def test_where_no_row_is_new_all_train(tmp_path):
    found, mixture = mix(rows(range(30)), None, ledger(tmp_path / "ledger", range(30)), 0.5, seed=0)

    assert len(found) == 30
    assert str(mixture) == "no row is new: all 30 older ones"


def test_on_a_first_run_every_row_is_new():
    found, mixture = mix(rows(range(30)), None, [], 0.5, seed=0)

    assert len(found) == 30
    assert str(mixture) == "30 new rows and 0 of 0 older ones"


def test_labels_that_are_left_are_those_of_the_rows(tmp_path):
    found, _ = mix(rows(range(9)), None, ledger(tmp_path / "ledger", [n for n in range(9) if n % 3]), 0.0, seed=0)

    assert found.label_names == ["0"]


def test_labels_of_two_types_are_one_clear_line():
    with pytest.raises(BadInput, match=r"^SCHEMA labels of two types are to be joined: int and str"):
        mix(rows(range(3)), rows(range(3, 6), label=int), [], 0.5, seed=0)
