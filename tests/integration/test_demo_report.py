"""What the demo prints."""

from __future__ import annotations

import dataclasses

import pytest

from demo.report import RunFigures, in_words, summary, table
from demo.story import figures_in_short

pytestmark = pytest.mark.integration

DAY_1 = RunFigures(
    run_id="manual__1",
    rows=80,
    version=1,
    accuracy=0.81,
    baseline_accuracy=0.42,
    macro_f1=0.8,
    verdict="first",
    promoted=True,
    seconds=41.4,
    bytes_uploaded=91_234_567,
)
DAY_2 = dataclasses.replace(DAY_1, rows=320, version=2, accuracy=0.87, baseline_accuracy=0.61, verdict="refused", promoted=False)


def test_the_table_has_a_line_for_each_day() -> None:
    head, first, second = table([DAY_1, DAY_2]).splitlines()
    assert head.split()[:6] == ["run", "labelled", "version", "accuracy", "TF-IDF", "macro"]
    assert first.split() == ["day", "1", "80", "1", "0.810", "0.420", "0.800", "first", "yes", "41", "91.2"]
    assert second.split() == ["day", "2", "320", "2", "0.870", "0.610", "0.800", "refused", "no", "41", "91.2"]


def test_the_sentences_are_computed_from_the_figures() -> None:
    text = in_words([DAY_1, DAY_2], champion=1)
    assert "With 80 labelled rows the fine-tuned model is right on 81.0% of the golden test set" in text
    assert "240 labels later it is 87.0% against 61.0% (+6.0 points), and version 1 is the champion." in text


def test_the_summary_names_the_store_the_model_and_every_run() -> None:
    body = summary("s3://b/store", "bbc-headlines", 1, [DAY_1, DAY_2])
    assert {key: body[key] for key in ("store", "model", "champion")} == {
        "store": "s3://b/store", "model": "bbc-headlines", "champion": 1
    }  # fmt: skip
    assert [list(run) for run in body["runs"]] == [
        [
            "run_id",
            "rows",
            "version",
            "accuracy",
            "baseline_accuracy",
            "macro_f1",
            "verdict",
            "promoted",
            "seconds",
            "bytes_uploaded",
        ]
    ] * 2


def test_a_jobs_progress_is_short() -> None:
    assert (
        figures_in_short({"time": 1.0, "phase": "train", "step": 40, "loss": 0.41234, "lr": 1e-4})
        == " (phase train, step 40, loss 0.412)"
    )
    assert figures_in_short({}) == ""
