from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from transfer_learning.blocks.data.intake import microseconds
from transfer_learning.blocks.data.splits import NOT_GIVEN, TEST, TRAIN, VALIDATION, assign, resolve_rule
from transfer_learning.errors import BadInput
from transfer_learning.specs import PullSpec


def spec(group: str | None = None, **split) -> PullSpec:
    return PullSpec.from_dict(
        {"name": "news", "source": "x.csv", "split": split, "task": {"id": "id", "time": "at", "group": group}}
    )


def given(*codes: int):
    return np.array(codes, dtype=np.int8)


@pytest.mark.parametrize(("labelled", "validation"), [(499, 0.0), (500, 0.1)])
def test_a_validation_share_left_open_is_decided_by_the_rows_of_the_first_snapshot(labelled, validation):
    assert resolve_rule(spec(), None, labelled_rows=labelled)["validation"] == validation


def test_what_was_resolved_once_stands_whatever_arrives_later():
    first = resolve_rule(spec(), None, labelled_rows=10)

    assert resolve_rule(spec(), first, labelled_rows=10_000) == first


def test_a_changed_rule_is_one_line_with_every_difference():
    standing = resolve_rule(spec(test=0.2), None, labelled_rows=10) | {"history": []}

    with pytest.raises(BadInput) as caught:
        resolve_rule(spec(key="id", test=0.3, salt="s"), standing, labelled_rows=10)

    assert str(caught.value) == (
        "SPLIT_RULE_CHANGED the split rule of dataset 'news' was fixed at its first snapshot:"
        " key 'content' -> 'id', column None -> 'id', salt '' -> 's', test 0.2 -> 0.3"
        " — set it back, use a new dataset name, or set reset_split to a reason"
    )


def test_the_texts_belong_to_a_rule_that_cuts_by_their_hash():
    def texts(**settings):
        return resolve_rule(spec(**settings), None, labelled_rows=0, given={TRAIN}).get("texts")

    assert texts() == texts(key="given", column="part") == ["text"]
    assert texts(key="id") == texts(key="group", group="g") == texts(test=0.0) == None  # noqa: E711


def test_the_group_belongs_to_a_given_rule_that_cuts_by_its_hash():
    def rule(**settings):
        return resolve_rule(spec(key="given", column="part", **settings), None, labelled_rows=0, given={TRAIN})

    assert rule(group="g")["group"] == "g"
    assert "texts" not in rule(group="g")
    assert "group" not in rule(group="g", test=0.0) | rule()


def test_a_rule_of_an_earlier_release_that_names_no_texts_stands_and_is_filled_in():
    earlier = {field: value for field, value in resolve_rule(spec(), None, labelled_rows=10).items() if field != "texts"}

    assert resolve_rule(spec(), earlier, labelled_rows=10) == earlier | {"texts": ["text"]}


def test_points_below_the_test_share_are_test_and_the_next_are_validation():
    rule = resolve_rule(spec(test=0.2, validation=0.1), None, labelled_rows=0)
    points = np.array([0.0, 0.1999, 0.2, 0.2999, 0.31, 0.999])

    codes = assign(rule, points, given=given(*[NOT_GIVEN] * 6), times=None, as_of=None)

    assert codes.tolist() == [TEST, TEST, VALIDATION, VALIDATION, TRAIN, TRAIN]


def test_a_larger_validation_share_moves_no_test_row():
    points = np.random.default_rng(0).random(1000)
    nothing = given(*[NOT_GIVEN] * 1000)

    small, large = (
        assign(resolve_rule(spec(validation=share), None, labelled_rows=0), points, given=nothing, times=None, as_of=None)
        for share in (0.1, 0.3)
    )

    assert ((small == TEST) == (large == TEST)).all()
    assert (large[small == VALIDATION] == VALIDATION).all()


class TestGiven:
    def rule(self, codes, standing=None, labelled_rows=0, **split):
        return resolve_rule(spec(key="given", column="part", **split), standing, labelled_rows=labelled_rows, given=set(codes))

    def test_the_source_is_taken_at_its_word_and_only_what_is_missing_is_cut(self):
        rule = self.rule([TRAIN, TEST], validation=0.5)

        codes = assign(rule, np.array([0.1, 0.4, 0.6, 0.1]), given=given(TRAIN, TRAIN, TRAIN, TEST), times=None, as_of=None)

        assert rule["test"] == 0.0
        assert rule["given"] == ["train", "test"]
        assert codes.tolist() == [VALIDATION, VALIDATION, TRAIN, TEST]

    def test_a_source_without_test_gets_one_cut_from_training(self):
        rule = self.rule([TRAIN, VALIDATION], test=0.3)

        codes = assign(rule, np.array([0.1, 0.1, 0.6]), given=given(TRAIN, VALIDATION, NOT_GIVEN), times=None, as_of=None)

        assert (rule["test"], rule["validation"]) == (0.3, 0.0)
        assert codes.tolist() == [TEST, VALIDATION, TRAIN]

    def test_a_later_pull_may_bring_fewer_splits_and_not_other_ones(self):
        standing = self.rule([TRAIN, TEST])

        assert self.rule([TRAIN], standing) == standing
        with pytest.raises(BadInput, match=r"given train \+ test -> train \+ validation \+ test"):
            self.rule([TRAIN, VALIDATION, TEST], standing)


class TestTime:
    AS_OF = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)

    def codes(self, *days: float, **split):
        rule = resolve_rule(spec(key="time", test_period="P7D", **split), None, labelled_rows=0)
        times = np.array([microseconds(self.AS_OF - dt.timedelta(days=day)) for day in days])
        return assign(rule, np.zeros(len(days)), given=given(*[NOT_GIVEN] * len(days)), times=times, as_of=self.AS_OF).tolist()

    def test_the_newest_rows_are_test(self):
        assert self.codes(0, 6.9, 7, 30) == [TEST, TEST, TRAIN, TRAIN]

    def test_the_period_before_is_validation(self):
        assert self.codes(6.9, 7, 9.9, 10, validation_period="P3D") == [TEST, VALIDATION, VALIDATION, TRAIN]
