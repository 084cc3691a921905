"""``strategy="auto"``: measure, choose, and say why.

The choice starts from a table that is common knowledge:

| labelled rows | similar to what the base learned from | different |
|---|---|---|
| few | a linear classifier on the last layer | a linear SVM on an earlier layer |
| many | the whole network | the whole network |

and is corrected by what full fine-tuning was seen to gain over a probe: accuracy of MiniLM on 500 test rows of BBC News, means of
three draws (``tests/benchmarks``, learning curves; 10 and 20 labels were run apart from them).

| labels | headlines: probe | full | of its errors | articles: probe | full | of its errors |
|---|---|---|---|---|---|---|
| 10 | 0.293 | 0.303 | 1% | | | |
| 20 | 0.401 | 0.423 | 4% | | | |
| 40 | 0.650 | 0.705 | 16% | 0.847 | 0.857 | 7% |
| 80 | 0.757 | 0.798 | 17% | | | |
| 160 | 0.797 | 0.825 | 13% | 0.951 | 0.958 | 14% |
| 320 | 0.824 | 0.857 | 19% | | | |
| 480 | | | | 0.959 | 0.969 | 26% |
| 640 | 0.846 | 0.867 | 13% | | | |
| 1,280 | 0.857 | 0.891 | 24% | | | |

So few rows are no reason against fine-tuning; a probe that makes hardly any errors is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from transfer_learning.blocks import checkpoint, model_folder
from transfer_learning.blocks.ledger import in_ledger
from transfer_learning.blocks.measuring import LONGEST, Measured, measure
from transfer_learning.blocks.probe import Accuracy
from transfer_learning.blocks.rows import Rows
from transfer_learning.blocks.transferability import PIECES, TokenFigures
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import Run

SMALL = 5000
"""Labelled rows below which the table calls data small: where training takes its smaller batches (``defaults.BATCH_SIZES``)."""

FEWEST_SEEN = 20
"""Labelled rows from which fine-tuning was seen to gain; with fewer the table stands."""

ERRORS_TAKEN = 1 / 6
"""Share of a probe's errors that full fine-tuning takes away, the middle of the table above."""

WORTH = 0.005
"""Accuracy that full fine-tuning must gain to be worth many times the time of a probe."""

CARRIES_OVER = 0.05
"""Accuracy by which a probe must be better than on random weights: less, and the base's features tell these classes nothing."""

FOREIGN_TOKENS, FOREIGN_WORDS = 0.05, 0.15
"""Shares of unknown tokens, and of words broken into many pieces, from which the base was not made for such texts: MiniLM breaks
1% to 6% of the words of English news, posts, tweets and dialogue, and 27% of Slovenian, where it loses by fine-tuning on 320
labels (0.52 against 0.59 of a probe, means of two draws)."""

FOR_A_BACKBONE: dict[str, Any] = {"epochs": None, "backbone_lr": None, "layer_decay": 1.0, "schedule": "linear"}
"""Settings that a probe has no use for, and what they are when nobody sets them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What is known of the text that the base was trained on."""

    share: float | None
    """Share of the labelled rows that stand in its ledgers; None where it brings none."""
    taught: bool = False
    """Whether it has seen their labels too, and not their text alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The settings in the place of ``auto``, and why."""

    settings: Mapping[str, Any]
    sentences: tuple[str, ...]
    figures: Mapping[str, Any]
    """What was measured, as JSON values; None where it is unknown."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"settings": dict(self.settings), "sentences": list(self.sentences), "figures": dict(self.figures)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the choice that ``to_dict`` told."""
        return cls(values["settings"], tuple(values["sentences"]), values["figures"])


def settle(spec: FineTuneSpec, folder: Path, rows: Rows, ledgers: Sequence[Path], run: Run) -> tuple[FineTuneSpec, Choice | None]:
    """Return the settings with a strategy in the place of ``auto``, and the choice; a resumed job makes the same one again.

    Args:
        spec: the settings as given; any strategy but ``auto`` stays.
        folder: of the base model.
        rows: labelled training rows.
        ledgers: folders with the ledgers that the base brings, if any.
        run: hears what was chosen; its checkpoint tells what was chosen before.

    Raises:
        BadInput, Stopped: as ``measure``.
    """
    if spec.strategy != "auto":
        return spec, None
    if stored := checkpoint.stored_identity(run).get("choice"):
        choice = Choice.from_dict(json.loads(stored))
    else:
        source, fresh = look_up(folder, rows, ledgers)
        pooling = "mean" if spec.pooling in (None, "architecture") else spec.pooling
        measured = measure(folder, fresh, str(pooling), spec.seed, run) if len(set(fresh.labels)) > 1 else None
        choice = choose(spec, len(rows), source, measured, pairs=rows.pairs is not None)
    run.progress(phase="choice", strategy=choice.settings["strategy"], reason=" ".join(choice.sentences))
    return spec.merged(choice.settings), choice


def look_up(folder: Path, rows: Rows, ledgers: Sequence[Path]) -> tuple[Source, Rows]:
    """Return what the base was trained on, and the rows to measure by: those whose labels it has not learned.

    Raises:
        BadInput: a ledger that cannot be read.
    """
    if not ledgers:
        return Source(None), rows
    known = in_ledger(rows, ledgers)
    passport = folder / model_folder.PASSPORT
    taught = passport.exists() and bool(json.loads(passport.read_bytes()).get("labels"))
    return Source(float(known.mean()), taught), rows.select(np.flatnonzero(~known)) if taught else rows


def choose(spec: FineTuneSpec, rows: int, source: Source, measured: Measured | None, *, pairs: bool) -> Choice:
    """Choose a strategy from what was measured.

    Args:
        spec: the settings as given.
        rows: labelled training rows.
        source: what is known of the base's own text.
        measured: a quick look at the base; None where no rows were left to look through.
        pairs: whether a row has two texts.
    """
    size = "small" if rows < SMALL else "large"
    sentences = [f"{rows:,} labelled rows: {size} (small is below {SMALL:,}).", _source_sentence(source)]
    figures: dict[str, Any] = {"rows": rows, "known_share": source.share}
    if measured is None:
        sentences.append("Nothing was measured: the base has learned the labels of these rows, or all but one class of them.")
        return Choice({"strategy": "full"}, (*sentences, "So: full, which needs no look at the features."), figures)
    sentences += [*_measured_sentences(measured, rows), _token_sentence(measured.tokens)]
    figures |= measured.to_dict()
    earlier = _is_earlier_better(measured)
    layer = measured.best if earlier else measured.last
    similar = _is_similar(measured, source) and not earlier
    table = "full" if size == "large" else "linear_probe"
    sentences.append(_table_sentence(size, similar))
    strategy, why = _corrected(table, rows, layer.probe, foreign=_is_foreign(measured.tokens))
    sentences.append(why)
    if strategy == "full":
        return Choice({"strategy": "full"}, (*sentences, "So: full."), figures)
    settings: dict[str, Any] = {"strategy": "linear_probe"}
    if spec.pooling != "architecture" and not pairs:
        settings |= {"layer": layer.number} if earlier else {}
        settings |= {} if similar or spec.head_lr is not None else {"classifier": "linear_svm"}
    where = f"layer {layer.number}" if "layer" in settings else "the last layer"
    head = "a linear support vector machine" if "classifier" in settings else "a linear classifier"
    sentences.append(f"So: linear_probe, {head} on {where}.")
    if left_out := [name for name in FOR_A_BACKBONE if name in spec.canonical()]:
        sentences.append(f"A probe trains no backbone: {' and '.join(left_out)} are left out.")
        settings |= {name: FOR_A_BACKBONE[name] for name in left_out}
    return Choice(settings, tuple(sentences), figures)


def _corrected(table: str, rows: int, probe: Accuracy | None, *, foreign: bool) -> tuple[str, str]:
    """Return the strategy, and why it is or is not the table's."""
    if probe is None:
        return table, "Too few rows for a probe's accuracy: the table stands."
    if foreign:
        return table, "The base was not made for such texts, and what fine-tuning gains was seen where it was: the table stands."
    gain = ERRORS_TAKEN * (1 - probe.mean)
    expected = f"full fine-tuning takes about a sixth of a probe's errors away, {100 * gain:.1f} points here"
    if gain < WORTH:
        return "linear_probe", f"The probe leaves little to gain: {expected}, less than {100 * WORTH:g}."
    if rows < FEWEST_SEEN and table != "full":
        return (
            table,
            f"The probe leaves something to gain, but with fewer than {FEWEST_SEEN} rows that was not tried: the table stands.",
        )
    return "full", f"The probe leaves something to gain: {expected}, {100 * WORTH:g} or more."


def _is_earlier_better(measured: Measured) -> bool:
    """Return whether a probe on the layer with the highest LogME beats one on the last by more than its standard error."""
    last, best = measured.last.probe, measured.best.probe
    return last is not None and best is not None and best.mean - last.mean > last.error


def _is_similar(measured: Measured, source: Source) -> bool:
    """Return whether the texts are of the kind that the base learned from, as far as its features and tokens tell."""
    if source.share is not None and source.share >= 0.5:
        return True
    gain = _gain_over_random(measured)
    return (gain is None or gain >= CARRIES_OVER) and not _is_foreign(measured.tokens)


def _is_foreign(tokens: TokenFigures) -> bool:
    """Return whether the tokenizer was made for another language or alphabet."""
    return (tokens.unknown or 0.0) >= FOREIGN_TOKENS or (tokens.broken or 0.0) >= FOREIGN_WORDS


def _gain_over_random(measured: Measured) -> float | None:
    """Return by how much a probe on the last layer is better than on random weights."""
    trained, random = measured.last.probe, measured.untrained
    return None if trained is None or random is None else trained.mean - random.mean


def _source_sentence(source: Source) -> str:
    if source.share is None:
        return "The text that the base was trained on: unknown, it brings no ledger."
    read = "learned" if source.taught else "read"
    return f"The base has {read} {source.share:.0%} of these rows before, its ledger says; what came before the ledger: unknown."


def _measured_sentences(measured: Measured, rows: int) -> list[str]:
    of = "all of them" if measured.sampled == rows else f"{measured.sampled:,} of them"
    look = f"Measured on {of}, {LONGEST} tokens each at most:"
    scores = ", ".join(f"{layer.logme:.3f}" for layer in measured.layers)
    logme = f"LogME by layer, embeddings first: {scores}; the best is layer {measured.best.number}"
    gain = _gain_over_random(measured)
    if gain is None:
        return [f"{look} a probe's accuracy is unknown, there are too few rows.", f"{logme}."]
    carries = "its features carry over" if gain >= CARRIES_OVER else "its features tell these classes hardly better"
    return [
        f"{look} a probe on the last layer is right on {_shown(measured.last.probe)} by cross-validation, on random weights on "
        f"{_shown(measured.untrained)}: {carries}.",
        f"{logme}, where a probe is right on {_shown(measured.best.probe)}.",
    ]


def _token_sentence(tokens: TokenFigures) -> str:
    broken = "unknown, the tokenizer tells no words" if tokens.broken is None else f"{tokens.broken:.1%}"
    unknown = "none can be" if tokens.unknown is None else f"{tokens.unknown:.1%}"
    return f"Words broken into {PIECES} or more pieces: {broken}; unknown tokens: {unknown}."


def _table_sentence(size: str, similar: bool) -> str:
    if size == "large":
        return "The table's choice for large data: the whole network."
    choice = "a linear classifier on the last layer" if similar else "a linear support vector machine on an earlier layer"
    return f"The table's choice for small data {'similar to' if similar else 'different from'} the base's: {choice}."


def _shown(accuracy: Accuracy | None) -> str:
    return "an unknown share" if accuracy is None else f"{accuracy.mean:.2f} +- {accuracy.error:.2f}"
