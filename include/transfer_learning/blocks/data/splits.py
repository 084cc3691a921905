"""The split rule: which rows train, which validate, which test, the same on every day.

A row's split is a function of a key and a salt alone, so rows that arrive later move no row that is there; ``given`` takes the
source's word, ``time`` cuts at durations before the run's own time. A rule is fixed at a dataset name's first snapshot, with
every default resolved.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from transfer_learning.blocks.data.intake import microseconds
from transfer_learning.errors import BadInput
from transfer_learning.specs import PullSpec, duration

SPLITS = ("train", "validation", "test")
"""By code: a row's split is stored as its place here. A higher one wins a text that stands in two."""
TRAIN, VALIDATION, TEST = range(3)
NOT_GIVEN = -1

TEXTS = "texts"
"""In a rule: the text columns, where a hash of the texts cuts."""

GROUP = "group"
"""In a rule by ``given``: the column of the groups, where a hash of theirs cuts what the source does not give."""

SMALLEST_FOR_VALIDATION = 500
"""Labelled rows at the first snapshot from which a validation split is cut without being asked for."""

Codes = npt.NDArray[np.int8]


def resolve_rule(
    spec: PullSpec, standing: Mapping[str, Any] | None, *, labelled_rows: int, given: Iterable[int] = ()
) -> dict[str, Any]:
    """Return the rule with every default resolved, as it is fixed for good.

    Args:
        spec: the pull.
        standing: the rule of the dataset's first snapshot, or None at the first.
        labelled_rows: how many there are now; decides a validation share left open, at the first snapshot only.
        given: codes of the splits that the source names.

    Raises:
        BadInput: the rule that stands is another one; the difference is shown.
    """
    split, task = spec.split, spec.task
    column = {"id": task.id, "group": task.group, "time": task.time, "given": split.column, "content": None}[split.key]
    rule: dict[str, Any] = {"key": split.key, "column": column, "salt": split.salt}
    validation = split.validation
    if validation is None:
        validation = 0.1 if labelled_rows >= SMALLEST_FOR_VALIDATION else 0.0
        if standing is not None:
            validation = standing.get("validation", validation)
    rule |= {"test": split.test, "validation": validation}
    if split.key == "time":
        rule |= {"test": 0.0, "validation": 0.0}
        rule |= {"test_period": split.test_period, "validation_period": split.validation_period}
    if split.key == "given":
        names = _given_names(split.column is None, spec, given, standing)
        # A share is cut only where the source has no such split.
        rule |= {name: 0.0 for name in ("test", "validation") if name in names} | {"given": names}
    if split.key in ("content", "given") and rule["test"] + rule["validation"] > 0:
        # Their hash decides.
        rule |= {GROUP: task.group} if split.key == "given" and task.group else {TEXTS: list(task.texts())}
    refuse_changed_rule(spec.name, rule, standing)
    return rule


def refuse_changed_rule(name: str, rule: Mapping[str, Any], standing: Mapping[str, Any] | None) -> None:
    """Compare with the rule that stands.

    Raises:
        BadInput: one line with every difference.
    """
    if standing is None:
        return
    known = {TEXTS: rule.get(TEXTS)} | dict(standing)  # rules of earlier releases do not name the texts
    differences = [
        f"{field} {_word(known.get(field))} -> {_word(value)}"
        for field, value in ({GROUP: None} | dict(rule)).items()
        if known.get(field) != value
    ]
    if differences:
        what = f"the split rule of dataset {name!r} was fixed at its first snapshot: {', '.join(differences)}"
        raise BadInput("SPLIT_RULE_CHANGED", what, "set it back, use a new dataset name, or set reset_split to a reason")


def assign(
    rule: Mapping[str, Any],
    points: npt.NDArray[np.float64],
    *,
    given: Codes,
    times: npt.NDArray[np.int64] | None,
    as_of: dt.datetime | None,
) -> Codes:
    """Return each row's split.

    Args:
        rule: what ``resolve_rule`` returned.
        points: each row's ``split_points`` of its split key.
        given: what the source says, or ``NOT_GIVEN``.
        times: µs since 1970, for a rule by time.
        as_of: the run's own time, for a rule by time.
    """
    if rule["key"] == "time":
        assert times is not None
        assert as_of is not None
        return _by_time(rule, times, as_of)
    cut = np.full(len(points), TRAIN, dtype=np.int8)
    cut[points < rule["test"] + rule["validation"]] = VALIDATION
    cut[points < rule["test"]] = TEST
    # Only what the source calls train, or does not name, is there to be cut.
    return np.where(given > TRAIN, given, cut).astype(np.int8)


def _by_time(rule: Mapping[str, Any], times: npt.NDArray[np.int64], as_of: dt.datetime) -> Codes:
    test_from = as_of - duration(rule["test_period"])
    codes = np.full(len(times), TRAIN, dtype=np.int8)
    if rule["validation_period"]:
        codes[times > microseconds(test_from - duration(rule["validation_period"]))] = VALIDATION
    codes[times > microseconds(test_from)] = TEST
    return codes


def _given_names(by_source: bool, spec: PullSpec, given: Iterable[int], standing: Mapping[str, Any] | None) -> list[str]:
    """Return which splits the source names; a later pull may bring rows of fewer of them, never of another one."""
    if by_source:
        return [name for name in SPLITS if name in (spec.split_sources or {})]
    found = {SPLITS[code] for code in given if code >= 0}
    known = list(standing.get("given", [])) if standing is not None else []
    return known if standing is not None and found <= {*known, "train"} else [name for name in SPLITS if name in found]


def _word(value: object) -> str:
    return " + ".join(value) or "none" if isinstance(value, list) else repr(value)
