"""Candidate against champion, over all rows and within slices; labels are compared by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_learning.blocks.evaluation.gate import SliceEvidence
from transfer_learning.blocks.evaluation.metrics import classification_metrics, label_order
from transfer_learning.blocks.evaluation.scoring import Score
from transfer_learning.blocks.evaluation.statistics import Codes, Comparison, McNemar, compare, holm, mcnemar
from transfer_learning.blocks.rows import Rows
from transfer_learning.errors import BadInput
from transfer_learning.specs import EvaluateSpec

MOST_VALUES = 200
"""Most distinct values of a slice column."""

SLICE_FIGURES = ("accuracy", "macro_f1")


Slice = tuple[str, str, Codes]
"""Column, value and row numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """The paired comparison over all rows."""

    comparison: Comparison
    mcnemar: McNemar
    notes: list[str]
    """What differs in the label sets."""


def compare_scores(rows: Rows, candidate: Score, champion: Score, spec: EvaluateSpec) -> Compared:
    """Compare two models' answers on the same rows.

    A row whose label the champion does not know counts as its error: it cannot be right there.
    """
    labels, ours, theirs = _codes(rows.labels, candidate.answers, champion.answers, candidate.known, champion.known)
    gate = spec.gate
    comparison = compare(
        labels,
        ours,
        theirs,
        metric=gate.metric,
        bound=-gate.margin if gate.min_gain is None else gate.min_gain,
        samples=spec.bootstrap_samples,
        confidence=gate.confidence,
        seed=spec.seed,
    )
    return Compared(comparison, mcnemar(labels, ours, theirs), _label_notes(rows, candidate, champion))


def score_slices(
    labels: Sequence[str], slices: Sequence[Slice], candidate: Score, champion: Score | None, spec: EvaluateSpec
) -> tuple[list[dict[str, Any]], list[SliceEvidence]]:
    """Return the figures of every slice, and with a champion what the gate needs of them.

    Without a slice margin the Holm-adjusted p values are about no difference at all.

    Args:
        labels: of the test rows and then of the rows that only the slice of old data has, as each score holds its answers.
        slices: row numbers among these.
        candidate: its answers.
        champion: its answers, if there is one.
        spec: margin, resamples and seed.
    """
    figures, evidence = [], []
    for column, value, places in slices:
        figures.append(
            {
                "column": column,
                "value": value,
                "rows": len(places),
                "candidate": _figures(labels, candidate, places),
                "champion": None if champion is None else _figures(labels, champion, places),
            }
        )
    if champion is None:
        return figures, []
    coded = _codes(labels, candidate.all_answers, champion.all_answers, candidate.known, champion.known)
    # Enough resamples that the smallest p value survives Holm's factor.
    samples = max(spec.bootstrap_samples, round(20 * len(figures) / (1 - spec.gate.confidence)))
    comparisons = [
        compare(
            *(codes[places] for codes in coded),
            metric=spec.gate.metric,
            bound=-(spec.gate.slice_margin or 0.0),
            samples=samples,
            confidence=spec.gate.confidence,
            seed=spec.seed,
        )
        for _, _, places in slices
    ]
    for entry, comparison, adjusted in zip(figures, comparisons, holm([c.p_value for c in comparisons]), strict=True):
        entry |= {"difference": comparison.difference, "interval": list(comparison.interval), "p_holm": adjusted}
        name = f"{entry['column']}={entry['value']}"
        evidence.append(SliceEvidence(name=name, comparison=comparison, p_adjusted=adjusted))
    return figures, evidence


def _codes(
    labels: Sequence[str], ours: Sequence[str], theirs: Sequence[str], *known: Sequence[str]
) -> tuple[Codes, Codes, Codes]:
    place = {name: number for number, name in enumerate(label_order(*known, labels))}
    first, second, third = (np.array([place[name] for name in part], dtype=np.int64) for part in (labels, ours, theirs))
    return first, second, third


def slices_of(rows: Rows) -> list[Slice]:
    """Return the slices of every slice column, by column and then by value.

    Raises:
        BadInput: a slice column with too many values to be one.
    """
    slices: list[Slice] = []
    for column, values in rows.slices.items():
        distinct, codes = np.unique(np.array(values, dtype=object), return_inverse=True)
        if len(distinct) > MOST_VALUES:
            raise BadInput(
                "TOO_MANY_SLICES",
                f"has {len(distinct)} values among {len(rows)} test rows, and a slice column may have {MOST_VALUES}",
                "slice by a coarser column",
                column=column,
            )
        slices.extend((column, str(value), np.flatnonzero(codes == number)) for number, value in enumerate(distinct))
    return slices


def _figures(labels: Sequence[str], score: Score, places: Codes) -> dict[str, Any]:
    picked, answers = places.tolist(), score.all_answers
    metrics, _ = classification_metrics([labels[i] for i in picked], [answers[i] for i in picked], score.known)
    return {name: metrics[name] for name in SLICE_FIGURES}


def _label_notes(rows: Rows, candidate: Score, champion: Score) -> list[str]:
    notes = []
    unknown = sorted(set(rows.labels) - set(champion.known))
    if unknown:
        count = sum(label in unknown for label in rows.labels)
        notes.append(
            f"the champion does not know {_named(unknown)}: {count:,} of {len(rows):,} test rows have such a label, "
            "and count as its errors"
        )
    lost = sorted(set(champion.known) - set(candidate.known))
    if lost:
        notes.append(f"the candidate does not know {_named(lost)}, which the champion does")
    return notes


def _named(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:5])
    return f"the label{'s' if len(labels) > 1 else ''} {shown}{f' and {len(labels) - 5} more' if len(labels) > 5 else ''}"
