"""Candidate against champion by label name, and within slices."""

import pytest

from transfer_learning.blocks.evaluation.comparison import compare_scores, score_slices, slices_of
from transfer_learning.blocks.evaluation.metrics import classification_metrics
from transfer_learning.blocks.evaluation.scoring import Score
from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import BadInput
from transfer_learning.specs import EvaluateSpec, Gate


def rows(labels, desks=None):
    count = len(labels)
    return Rows(
        texts=["text"] * count,
        pairs=None,
        labels=labels,
        label_values=tuple(sorted(set(labels))),
        row_keys=[bytes([i]) * 32 for i in range(count)],
        content_keys=[bytes([i]) * 32 for i in range(count)],
        slices={"desk": desks} if desks else {},
    )


def score(labels, answers, known):
    metrics, warnings = classification_metrics(labels, answers, known)
    return Score(answers, known, metrics, warnings)


def test_labels_are_compared_by_name_whatever_their_order():
    labels = ["a", "b", "a", "b"]
    ours, theirs = score(labels, ["a", "b", "a", "a"], ["a", "b"]), score(labels, ["a", "b", "b", "b"], ["b", "a"])

    found = compare_scores(rows(labels), ours, theirs, EvaluateSpec())

    assert found.comparison.difference == 0
    assert (found.mcnemar.only_candidate, found.mcnemar.only_champion) == (1, 1)
    assert found.notes == []


def test_rows_of_a_label_the_champion_does_not_know_are_its_errors():
    labels = ["a", "b", "new", "new"]
    ours, theirs = score(labels, labels, ["a", "b", "new"]), score(labels, ["a", "b", "a", "b"], ["a", "b", "old"])

    found = compare_scores(rows(labels), ours, theirs, EvaluateSpec())

    assert found.comparison.difference == 0.5
    assert found.notes == [
        "the champion does not know the label 'new': 2 of 4 test rows have such a label, and count as its errors",
        "the candidate does not know the label 'old', which the champion does",
    ]


def test_a_slice_has_its_own_figures_and_a_holm_adjusted_p_value():
    labels = ["a", "b"] * 100
    desks = ["home"] * 100 + ["world"] * 100
    wrong = ["b", "a"] * 50
    ours, theirs = score(labels, labels, ["a", "b"]), score(labels, labels[:100] + wrong, ["a", "b"])

    figures, evidence = score_slices(
        labels, slices_of(rows(labels, desks)), ours, theirs, EvaluateSpec(gate=Gate(slice_margin=0.05))
    )

    assert [(f["column"], f["value"], f["rows"]) for f in figures] == [("desk", "home", 100), ("desk", "world", 100)]
    assert figures[1]["candidate"] == {"accuracy": 1.0, "macro_f1": 1.0}
    assert figures[1]["champion"] == {"accuracy": 0.0, "macro_f1": 0.0}
    assert figures[1]["difference"] == 1.0
    assert figures[0]["difference"] == 0.0
    assert evidence[1].name == "desk=world"
    smallest = min(entry.comparison.p_value for entry in evidence)
    assert min(entry.p_adjusted for entry in evidence) == pytest.approx(2 * smallest)


def test_without_a_champion_slices_are_figures_only():
    labels = ["a", "b"]

    figures, evidence = score_slices(
        labels, slices_of(rows(labels, ["x", "y"])), score(labels, labels, ["a", "b"]), None, EvaluateSpec()
    )

    assert [f["champion"] for f in figures] == [None, None]
    assert evidence == []


def test_many_slices_can_still_be_settled():
    labels = ["a"] * 200 * 20
    desks = [f"desk {i}" for i in range(200) for _ in range(20)]
    ours, theirs = score(labels, labels, ["a", "b"]), score(labels, ["b"] * 4000, ["a", "b"])

    _, evidence = score_slices(
        labels, slices_of(rows_of(labels, desks)), ours, theirs, EvaluateSpec(gate=Gate(slice_margin=0.05))
    )

    assert all(entry.p_adjusted <= 0.05 for entry in evidence)


def rows_of(labels, desks):
    return Rows(["text"] * len(labels), None, labels, ("a",), [], [], {"desk": desks})


def test_a_column_with_a_value_for_each_row_is_no_slice():
    labels = ["a"] * 201

    with pytest.raises(BadInput, match=r"^TOO_MANY_SLICES \[desk\] has 201 values among 201 test rows"):
        slices_of(rows_of(labels, [str(i) for i in range(201)]))
