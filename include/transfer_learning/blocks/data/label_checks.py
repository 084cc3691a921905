"""What is said about the labels of a snapshot: refusals for what cannot be meant, sentences for what one should know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from transfer_learning.blocks.data.hashing import normalised
from transfer_learning.blocks.data.intake import SHOWN
from transfer_learning.blocks.data.row_table import RowTable
from transfer_learning.blocks.data.selection import Selection
from transfer_learning.blocks.data.splits import SPLITS, TEST
from transfer_learning.errors import BadInput
from transfer_learning.specs import PullSpec

WHOLE_AS_FLOAT = re.compile(r"([+-]?\d+)\.0+")

Counts = Mapping[str, Mapping[str, int]]
"""Labelled rows by split and label name."""


def refuse_near_duplicates(table: RowTable, column: str | None, name: str) -> None:
    """Check that no two labels differ only in a way that nobody sees.

    Raises:
        BadInput: labels that differ in spaces, case or Unicode form, or as ``1`` and ``1.0``, with their counts.
    """
    groups: dict[str, list[int]] = {}
    for code, label in enumerate(table.labels):
        folded = normalised(str(label))
        number = WHOLE_AS_FLOAT.fullmatch(folded)
        groups.setdefault(number.group(1) if number else folded, []).append(code)
    alike = [codes for codes in groups.values() if len(codes) > 1]
    if alike:
        counts = np.bincount(table.label[table.labelled], minlength=len(table.labels))
        first = " and ".join(f"{table.labels[code]!r} ({counts[code]} rows)" for code in alike[0])
        more = f"; {len(alike) - 1} more such groups" if len(alike) > 1 else ""
        what = f"labels differ only in spaces, case, Unicode form or a '.0': {first}{more}"
        raise BadInput("NEAR_DUPLICATE_LABELS", what, "write each label in one way", file=name, column=column)


def count_labels(table: RowTable, selection: Selection) -> dict[str, dict[str, int]]:
    """Return labelled rows by split and label name, both in a fixed order."""
    codes = table.label[selection.places]
    counts = {}
    for code, split in enumerate(SPLITS):
        found = np.bincount(codes[(selection.split == code) & (codes >= 0)], minlength=len(table.labels))
        counts[split] = {str(label): int(n) for label, n in zip(table.labels, found, strict=True) if n}
    return counts


def refuse_small_classes(counts: Counts, spec: PullSpec, test_is_cut: bool) -> list[str]:
    """Check that every class can be trained and tested, where the pull itself cuts the test split.

    Returns:
        Sentences about classes that are missing from test or from training.

    Raises:
        BadInput: a class without a row in test or in training, unless ``small_classes`` is ``exempt``.
    """
    train, test = counts["train"], counts["test"]
    labels = sorted({label for split in counts.values() for label in split})
    small = [label for label in labels if label not in test or label not in train] if test_is_cut else []
    if small and spec.split.small_classes == "refuse":
        shown = ", ".join(f"{label!r} ({_by_split(counts, label)})" for label in small[:SHOWN])
        what = f"{_number(len(small), 'class')} too small to be trained and tested: {shown}{' …' if len(small) > SHOWN else ''}"
        fix = "bring more rows, merge classes, or set split.small_classes='exempt'"
        raise BadInput("CLASS_TOO_SMALL", what, fix, file=spec.name, column=spec.task.label)
    notes = [f"Class {label!r} is too small to be trained and tested: {_by_split(counts, label)}." for label in small]
    if test and train and not test_is_cut:
        notes += [
            f"Label {label!r} stands in test ({test[label]} rows) and not in training." for label in test if label not in train
        ]
        notes += [
            f"Label {label!r} stands in training ({train[label]} rows) and not in test: its metrics are undefined."
            for label in train
            if label not in test
        ]
    return notes


def general_notes(counts: Counts, selection: Selection, contradictions: Sequence[str], *, grouped: bool) -> list[str]:
    """Return sentences about the snapshot as a whole; ``grouped`` tells whether a row goes with its group."""
    notes = []
    labels = sorted({label for split in counts.values() for label in split})
    if len(labels) == 1:
        notes.append(f"There is one class only, {labels[0]!r}: features can be extracted, nothing can be fine-tuned.")
    if not labels:
        notes.append("No row has a label: the snapshot is for pretraining.")
    elif not counts["train"]:
        notes.append("No labelled row is in training.")
    if labels and not (selection.split == TEST).any():
        notes.append("There is no test split: a model trained on this snapshot cannot be evaluated.")
    if leaked := selection.dropped["test_wins"]:
        what = "the text or the group" if grouped else "the text"
        notes.append(f"{_number(leaked, 'row')} left out of training and validation: {what} stands in test.")
    if selection.repeated:
        notes.append(f"{_number(selection.repeated, 'row')} kept that repeat another row's words in the same split.")
    return notes + list(contradictions)


def contradiction_notes(table: RowTable, selection: Selection, texts: Mapping[int, str], own_ids: bool) -> list[str]:
    """Return a sentence for texts that carry several labels: how many, and the first five.

    Args:
        table: all admitted rows.
        selection: what was chosen.
        texts: the text at each place of ``contradicting_places``.
        own_ids: whether rows have ids, so that every one of them is kept.
    """
    groups = _contradicting_groups(table, selection)
    if not groups:
        return []
    shown = "; ".join(
        f"{_short(texts[int(places[0])])} is {', '.join(str(table.labels[table.label[place]]) for place in places)}"
        for places in groups[:SHOWN]
    )
    kept = "all of these rows are kept" if own_ids else "of equal texts one is kept"
    more = " …" if len(groups) > SHOWN else ""
    return [f"{_number(len(groups), 'text')} found under contradictory labels ({kept}): {shown}{more}."]


def contradicting_places(table: RowTable, selection: Selection) -> list[int]:
    """Return one place for each text that ``contradiction_notes`` shows."""
    return [int(places[0]) for places in _contradicting_groups(table, selection)[:SHOWN]]


def _contradicting_groups(table: RowTable, selection: Selection) -> list[npt.NDArray[np.int64]]:
    places = selection.contradictions
    if not len(places):
        return []
    keys = table.content_key[places]
    return np.split(places, np.flatnonzero(keys[1:] != keys[:-1]) + 1)


def _by_split(counts: Counts, label: str) -> str:
    return ", ".join(f"{counts[split].get(label, 0)} {split}" for split in SPLITS)


def _number(count: int, word: str) -> str:
    plural = word + ("es" if word.endswith("s") else "s")
    return f"{count} {word} is" if count == 1 else f"{count} {plural} are"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else flat[:59] + "…")
