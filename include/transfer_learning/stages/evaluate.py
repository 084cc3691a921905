"""Score a candidate and the live model on the same test rows, apply the gate, and write the evidence.

Inputs: ``candidate`` and maybe ``champion`` (model folders), ``test`` and maybe ``train`` (folders of Parquet parts, the latter
for the baselines), maybe ``champion_test`` (the test rows of the champion's data) and ``features`` (parts that
``feature_extract`` made of the test rows), ``candidate_ledger`` and ``champion_ledger`` (folders of ledgers, the version's own
first). Out: ``verdict.json``, ``predictions.parquet`` and ``plots/``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transfer_learning.blocks import numerics
from transfer_learning.blocks.evaluation import baselines, plots
from transfer_learning.blocks.evaluation.comparison import Compared, compare_scores, score_slices, slices_of
from transfer_learning.blocks.evaluation.gate import Evidence, Ruling, decide
from transfer_learning.blocks.evaluation.old_data import OldData, find_old
from transfer_learning.blocks.evaluation.scoring import Score, refuse_to_go_on, score_baseline, score_model, see
from transfer_learning.blocks.feature_parts import Part, read_parts
from transfer_learning.blocks.ledger import Dropped, drop_known, in_ledger
from transfer_learning.blocks.model_folder import PASSPORT
from transfer_learning.blocks.predict import Seen, load_classifier
from transfer_learning.blocks.rows import Rows, read_rows
from transfer_learning.errors import BadInput
from transfer_learning.power import smallest_margin
from transfer_learning.specs import EvaluateSpec, TaskSpec
from transfer_learning.stage import NUMERICS_VERSIONS, Inputs, Run

FORMAT = 1
"""Of ``verdict.json``."""

FLAT = ("accuracy", "macro_f1", "macro_precision", "macro_recall", "log_loss", "expected_calibration_error")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Everybody's answers on the test rows."""

    candidate: Score
    champion: Score | None
    majority: Score | None
    tfidf: Score | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The test rows, and what was made of them."""

    rows: Rows
    dropped: Dropped
    old: OldData
    scores: Scores
    compared: Compared | None
    choice: str | None
    """Which strategy ``auto`` chose for the candidate, and why, where it did."""


def evaluate(spec: EvaluateSpec, inputs: Inputs, out: Path, run: Run) -> dict[str, Any]:
    """Compare a candidate with the champion and decide.

    Returns:
        Metrics: ``accuracy``, ``macro_f1`` and so on of the candidate, of the champion as ``champion_accuracy`` …, of TF-IDF as
        ``baseline_accuracy`` …, the ``difference`` of the gate's metric with its interval, ``rows`` and ``seconds``.

    Raises:
        BadInput: models or rows that cannot be compared, or no test row outside the ledgers.
        Stopped: the job was asked to stop.
    """
    started = time.monotonic()
    run.numerics |= numerics.choose("fp32", run) | {"version": NUMERICS_VERSIONS["evaluate"]}
    judged = _judge(spec, inputs, run)
    rows, old, scores, compared = judged.rows, judged.old, judged.scores, judged.compared
    champion = scores.champion
    labels = [*rows.labels, *(old.gone.labels if old.gone else ())]
    parts = [*slices_of(rows), *([old.slice] if old.slice else [])]
    slices, slice_evidence = score_slices(labels, parts, scores.candidate, champion, spec)
    evidence = Evidence(
        candidate=scores.candidate.metrics,
        champion=champion.metrics if champion else None,
        comparison=compared.comparison if compared else None,
        slices=slice_evidence,
        majority=scores.majority.metrics if scores.majority else None,
        tfidf=scores.tfidf.metrics if scores.tfidf else None,
        same_version=champion is scores.candidate,
        newer=_newer(run.facts),
    )
    ruling = decide(spec.gate, evidence)
    refuse_to_go_on(run)
    run.progress(phase="evidence")
    _write_predictions(out / "predictions.parquet", rows, scores)
    _draw(out / "plots", scores, run.facts)
    verdict = _verdict(spec, run.facts, judged, slices, ruling)
    text = json.dumps(verdict, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "verdict.json").write_text(text + "\n", encoding="utf-8")
    return _flat(scores, compared, len(rows)) | {"seconds": time.monotonic() - started}


def _judge(spec: EvaluateSpec, inputs: Inputs, run: Run) -> Judged:
    """Read the test rows that neither model was trained on, let everybody answer them, and compare."""
    classifier = load_classifier(inputs["candidate"][0], run.numerics["device"])
    task = spec.task or classifier.task or TaskSpec()
    if not inputs.get("test"):
        raise BadInput("NO_TEST_ROWS", "the dataset has no test split", "give its split rule a share for test")
    every = read_rows(inputs["test"], task, role="test", slices=spec.slices, hashed=bool(inputs.get("features")))
    ledgers = inputs.get("candidate_ledger", ()), inputs.get("champion_ledger", ())
    rows, dropped = drop_known(every, *ledgers)
    old = find_old(rows, inputs.get("champion_test", ()), task, [folder for part in ledgers for folder in part])
    shown = see(classifier, rows, old.gone, run, "candidate", stored=_stored("candidate", inputs, run))
    candidate = score_model(shown, rows, spec)
    # The candidate is the champion where the parent pinned the same version for both.
    version = run.facts.get("candidate_version")
    same = version is not None and version == run.facts.get("champion_version")
    champion = candidate if same else _champion(spec, inputs, rows, old, run, shown.seen)
    compared = compare_scores(rows, candidate, champion, spec) if champion else None
    scores = Scores(candidate=candidate, champion=champion, **_baselines(inputs, task, rows, run))
    return Judged(rows=rows, dropped=dropped, old=old, scores=scores, compared=compared, choice=classifier.choice)


def digest_rows(rows: Rows) -> str:
    """Return the sha256 over the sorted row keys: what this test set is known by."""
    return hashlib.sha256(b"".join(sorted(rows.row_keys))).hexdigest()


def _champion(spec: EvaluateSpec, inputs: Inputs, rows: Rows, old: OldData, run: Run, candidate: Seen) -> Score | None:
    if not inputs.get("champion"):
        return None
    classifier = load_classifier(inputs["champion"][0], run.numerics["device"])
    stored = _stored("champion", inputs, run)
    return score_model(see(classifier, rows, old.gone, run, "champion", known=candidate, stored=stored), rows, spec)


def _stored(role: str, inputs: Inputs, run: Run) -> list[Part]:
    """Return the stored features of the test rows, where the parent knows that they are what this model's head sees."""
    return read_parts(inputs["features"], run) if role in run.facts.get("answer_from_features", ()) else []


def _baselines(inputs: Inputs, task: TaskSpec, rows: Rows, run: Run) -> dict[str, Score | None]:
    """Train and measure the baselines, where there are training rows, on those that the candidate learned from."""
    refuse_to_go_on(run)
    if not inputs.get("train"):
        return {"majority": None, "tfidf": None}
    run.progress(phase="baselines")
    train = _learned_from(read_rows(inputs["train"], task), inputs)
    if not len(train):
        return {"majority": None, "tfidf": None}
    bag = baselines.tfidf(_whole_texts(train), train.labels, _whole_texts(rows))
    return {
        "majority": score_baseline(baselines.majority(train.labels, len(rows)), rows),
        "tfidf": None if bag is None else score_baseline(bag, rows),
    }


def _learned_from(train: Rows, inputs: Inputs) -> Rows:
    """Return the rows of the training split that the candidate was given: not all, where it learned from a draw of them.

    The first folder of its ledgers is its own; a model that it started from may have read all of them.
    """
    passport = inputs["candidate"][0] / PASSPORT
    spec = json.loads(passport.read_bytes()).get("spec", {}) if passport.exists() else {}
    if spec.get("train_rows") is None:
        return train
    return train.select(np.flatnonzero(in_ledger(train, inputs.get("candidate_ledger", ())[:1], by=("row_key",))))


def _whole_texts(rows: Rows) -> list[str]:
    """Return each row's words in one text."""
    if rows.pairs is None:
        return rows.texts
    return [f"{first} {second}" for first, second in zip(rows.texts, rows.pairs, strict=True)]


def _newer(facts: Mapping[str, Any]) -> bool:
    """Return whether the run's data are newer than the champion's; unknown is no."""
    times = [facts.get("as_of"), facts.get("champion_as_of")]
    if not all(times):
        return False
    ours, theirs = (datetime.fromisoformat(str(text)) for text in times)
    return _aware(ours) > _aware(theirs)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _verdict(
    spec: EvaluateSpec, facts: Mapping[str, Any], judged: Judged, slices: list[dict[str, Any]], ruling: Ruling
) -> dict[str, Any]:
    rows, scores, compared = judged.rows, judged.scores, judged.compared
    return {
        "format": FORMAT,
        "decision": ruling.decision,
        "passed": ruling.passed,
        "sentences": [*ruling.sentences, *_notes(spec, facts, judged)],
        "metrics": {
            "candidate": scores.candidate.metrics,
            "champion": scores.champion.metrics if scores.champion else None,
            "baselines": {
                "majority": scores.majority.metrics if scores.majority else None,
                "tfidf": scores.tfidf.metrics if scores.tfidf else None,
            },
        },
        "rules": [rule.to_dict() for rule in ruling.rules],
        "slices": slices,
        "dropped": dataclasses.asdict(judged.dropped),
        "test": {
            "rows": len(rows),
            "digest": digest_rows(rows),
            "split_digest": facts.get("test_digest"),
            "uses": facts.get("test_uses"),
        },
        "mcnemar": dataclasses.asdict(compared.mcnemar) if compared else None,
        "model": facts.get("model"),
        "dataset": facts.get("dataset"),
        **{name: facts.get(name) for name in ("candidate_version", "champion_version", "champion_generation")},
        **{name: facts.get(name) for name in ("as_of", "champion_as_of")},
        "spec": spec.to_dict(),
    }


def _notes(spec: EvaluateSpec, facts: Mapping[str, Any], judged: Judged) -> list[str]:
    """Return one sentence for each circumstance that a reader of the figures must know."""
    rows, scores, compared = judged.rows, judged.scores, judged.compared
    notes = [*(compared.notes if compared else []), *scores.candidate.warnings, *([judged.choice] if judged.choice else [])]
    if compared:
        counts = compared.mcnemar
        disagreement = (counts.only_candidate + counts.only_champion) / len(rows)
        settled = smallest_margin(len(rows), disagreement, spec.gate.confidence)
        notes.append(
            f"only the candidate is right on {counts.only_candidate:,} of {len(rows):,} test rows, only the champion on "
            f"{counts.only_champion:,} (exact McNemar p {counts.p_value:.3g}); so much disagreement lets this test set settle "
            f"an accuracy margin of {settled:.3f}"
        )
    for who, score in (("candidate", scores.candidate), ("champion", scores.champion)):
        if score is not None and score.stored:
            notes.append(f"the {who} answered {score.stored:,} of {len(rows):,} test rows from features that were stored before")
        if score is not None and score.unlike:
            notes.append(f"the stored features of the test rows are not what the {who} sees: all were run")
    if judged.dropped.total:
        notes.append(judged.dropped.sentence(len(rows) + judged.dropped.total))
    if judged.old.note:
        notes.append(judged.old.note)
    if scores.majority is None:
        notes.append("no training rows were given: there are no baselines")
    elif scores.tfidf is None:
        notes.append("the training rows have one label only, or no words: there is no TF-IDF baseline")
    if facts.get("test_uses") is not None:
        notes.append(f"decisions on this model that were made on this test split before: {facts['test_uses']:,}")
    return notes


def _write_predictions(path: Path, rows: Rows, scores: Scores) -> None:
    """Write each row's label, both answers, the probability of each answer and what the true label got."""
    columns: dict[str, Any] = {"_row_key": pa.array(rows.row_keys, pa.binary(32)), "label": pa.array(rows.labels, pa.string())}
    columns["candidate"] = pa.array(scores.candidate.answers, pa.string())
    columns["p_candidate"] = pa.array(scores.candidate.of_answer(), pa.float64())
    columns["p_label"] = pa.array(scores.candidate.of_label(rows.labels), pa.float64())
    champion = scores.champion
    columns["champion"] = pa.array(champion.answers, pa.string()) if champion else pa.nulls(len(rows), pa.string())
    columns["p_champion"] = pa.array(champion.of_answer(), pa.float64()) if champion else pa.nulls(len(rows), pa.float64())
    pq.write_table(pa.table(columns), path)


def _draw(folder: Path, scores: Scores, facts: Mapping[str, Any]) -> None:
    folder.mkdir()
    metrics, champion = scores.candidate.metrics, scores.champion
    version = f" {facts['candidate_version']}" if facts.get("candidate_version") is not None else ""
    title = f"Candidate{version} on {metrics['rows']:,} test rows, accuracy {metrics['accuracy']:.3f}"
    plots.draw_confusion(folder / "confusion.png", metrics["confusion"], metrics["labels"], title)
    assert scores.candidate.calibration is not None
    plots.draw_calibration(folder / "calibration.png", scores.candidate.calibration, champion.calibration if champion else None)
    plots.draw_per_class(folder / "per_class.png", metrics, champion.metrics if champion else None)


def _flat(scores: Scores, compared: Compared | None, rows: int) -> dict[str, Any]:
    named = {"": scores.candidate, "champion_": scores.champion, "baseline_": scores.tfidf, "majority_": scores.majority}
    figures: dict[str, Any] = {"rows": rows}
    for prefix, score in named.items():
        figures |= {f"{prefix}{name}": score.metrics.get(name) for name in FLAT} if score else {}
    if compared:
        low, high = compared.comparison.interval
        figures |= {"difference": compared.comparison.difference, "difference_low": low, "difference_high": high}
        figures["mcnemar_p"] = compared.mcnemar.p_value
    return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
