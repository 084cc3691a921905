"""Training that goes on from the model's own earlier version: its head grows by label name, older rows are replayed."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from learning.tiny_model import make_rows, write_base, write_rows
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.errors import BadInput
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import Inputs, Run
from transfer_learning.stages.fine_tune import fine_tune

ROWS = make_rows(90)
SETTINGS = {"epochs": 40, "backbone_lr": 0.005, "precision": "fp32"}
FACTS = {"model": "news"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published version that knows business and film."""
    folder = tmp_path_factory.mktemp("first")
    rows = [row for row in ROWS[:60] if row[1] != "sport"]
    return train({"base": [write_base(folder / "base")], "train": [write_rows(folder / "train", rows)]}, folder / "out")


def train(inputs: Inputs, out: Path, facts: dict[str, Any] | None = None, **settings: Any) -> Path:
    return train_as_it_comes(inputs, out, facts, **SETTINGS | settings)


def train_as_it_comes(inputs: Inputs, out: Path, facts: dict[str, Any] | None = None, **settings: Any) -> Path:
    out.mkdir()
    fine_tune(FineTuneSpec(**settings), inputs, out, Run(threads=1, facts=FACTS if facts is None else facts))
    return out


def passport(out: Path) -> dict[str, Any]:
    return json.loads((out / "model" / "passport.json").read_text())


@pytest.fixture
def continued(first: Path, tmp_path: Path) -> Inputs:
    """The version, its ledger, and new rows of two topics of which it knows one."""
    (tmp_path / "ledger").mkdir()
    shutil.copy(first / "ledger.parquet", tmp_path / "ledger")
    new = [row for row in ROWS[60:] if row[1] != "business"]
    return {
        "base": [first / "model"],
        "train": [write_rows(tmp_path / "train", new)],
        "replay": [write_rows(tmp_path / "replay", [row for row in ROWS[:60] if row[1] != "sport"])],
        "ledger": [tmp_path / "ledger"],
    }


def test_the_head_keeps_the_labels_it_knows_and_grows_by_the_new_ones(continued: Inputs, tmp_path: Path) -> None:
    out = train(continued, tmp_path / "out", init_from="latest", replay=0.5)

    found = passport(out)
    assert found["labels"] == ["business", "film", "sport"]
    assert found["base"]["head_labels"] == ["business", "film"]
    assert "own head for business, film; new in it: sport" in (out / "model" / "README.md").read_text()
    texts, labels = zip(*make_rows(60, seed=3), strict=True)
    classifier = load_classifier(out / "model")
    answers = [classifier.labels[i] for i in classifier.probabilities(list(texts)).argmax(axis=1)]
    assert sum(a == b for a, b in zip(answers, labels, strict=True)) >= 50


def used(out: Path) -> tuple[float, int]:
    settings = passport(out)["settings"]
    return settings["backbone_lr"], settings["epochs"]


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_training_goes_on_at_the_rate_of_what_is_new(first: Path, continued: Inputs, tmp_path: Path, strategy: str) -> None:
    known = continued | {"train": [write_rows(tmp_path / "known", [row for row in ROWS[60:] if row[1] != "sport"])]}
    every = continued | {"train": [write_rows(tmp_path / "every", [row for row in ROWS if row[1] != "sport"])]}
    starts = {
        "anew": (known, FACTS, {"init_from": "base", "replay": 0.0}),
        "20 new beside 40 learned": (known, FACTS, {"init_from": "latest", "replay": 0.0}),
        "all 60 with 20 of them new": (every, FACTS, {"init_from": "latest"}),
        "a new label": (continued, FACTS, {"init_from": "latest", "replay": 0.0}),
        "another model": (known, {"model": "other"}, {"init_from": "latest", "replay": 0.0}),
    }

    rates = {
        name: used(train_as_it_comes(inputs, tmp_path / name, facts, strategy=strategy, **settings))[0]
        for name, (inputs, facts, settings) in starts.items()
    }

    anew = rates["anew"]
    assert rates == {
        "anew": anew,
        "20 new beside 40 learned": pytest.approx(anew / 3),
        "all 60 with 20 of them new": pytest.approx(anew / 3),
        "a new label": anew,
        "another model": anew,
    }


def test_the_card_says_that_it_was_slower(continued: Inputs, tmp_path: Path) -> None:
    inputs = continued | {"train": [write_rows(tmp_path / "known", [row for row in ROWS[60:] if row[1] != "sport"])]}
    set_by_hand = {"backbone_lr": 1e-3, "epochs": 3}

    slower, given, anew = (
        (train_as_it_comes(inputs, tmp_path / name, replay=0.0, **settings) / "model" / "README.md").read_text()
        for name, settings in {
            "slower": {"init_from": "latest"},
            "given": {"init_from": "latest", **set_by_hand},
            "anew": {"init_from": "base"},
        }.items()
    )

    assert "| pace | 0.33 of the base's rate and steps, for the share of rows that is new |" in slower
    assert "| pace |" not in given + anew


def test_what_a_probe_published_is_no_learned_head(continued: Inputs, tmp_path: Path) -> None:
    probe = train_as_it_comes(continued, tmp_path / "probe", strategy="linear_probe", init_from="base", replay=0.0)

    out = train_as_it_comes(continued | {"base": [probe / "model"]}, tmp_path / "out", init_from="latest", replay=0.0)

    assert used(out)[0] == pytest.approx(1e-3)
    assert passport(out)["labels"] == ["film", "sport"]


def test_a_label_without_new_rows_stays(continued: Inputs, tmp_path: Path) -> None:
    out = train(continued, tmp_path / "out", init_from="champion", replay=0.0, class_weights="balanced")

    assert passport(out)["labels"] == ["business", "film", "sport"]
    assert passport(out)["label_counts"]["train"].get("business") is None


@pytest.mark.parametrize(("facts", "init_from"), [({"model": "other"}, "latest"), (FACTS, "base")])
def test_another_models_labels_are_not_taken_over(continued: Inputs, tmp_path: Path, facts: dict, init_from: str) -> None:
    out = train(continued, tmp_path / "out", facts, init_from=init_from, replay=0.0)

    assert passport(out)["labels"] == ["film", "sport"]


def test_older_rows_are_drawn_and_the_card_and_the_ledger_tell_which(continued: Inputs, tmp_path: Path) -> None:
    out = train(continued, tmp_path / "out", init_from="latest", replay=0.2)

    assert passport(out)["settings"]["replay"] == "0.2: 20 new rows and 5 of 40 older ones"
    assert "| replay | 0.2: 20 new rows and 5 of 40 older ones |" in (out / "model" / "README.md").read_text()
    assert pq.read_table(out / "ledger.parquet").num_rows == 25


def test_older_rows_of_the_validation_split_do_not_train(continued: Inputs, tmp_path: Path) -> None:
    older = [row for row in ROWS[:60] if row[1] == "film"]
    continued |= {
        "validation": [write_rows(tmp_path / "validation", older[:5])],
        "replay": [write_rows(tmp_path / "older", older)],
    }

    out = train(continued, tmp_path / "out", init_from="latest", replay=0.9)

    assert passport(out)["settings"]["replay"].endswith(f" of {len(older) - 5} older ones")


def test_rows_of_the_dataset_that_the_version_was_trained_on_are_older_ones(first: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    shutil.copy(first / "ledger.parquet", tmp_path / "ledger")
    every = [row for row in ROWS if row[1] != "sport"]
    inputs = {
        "base": [first / "model"], "train": [write_rows(tmp_path / "train", every)], "ledger": [tmp_path / "ledger"]
    }  # fmt: skip

    out = train(inputs, tmp_path / "out", init_from="latest", replay=0.5)

    assert passport(out)["settings"]["replay"] == "0.5: 20 new rows and 20 of 40 older ones"


def test_a_validation_label_that_only_the_head_knows_is_fine(continued: Inputs, tmp_path: Path) -> None:
    continued["validation"] = [write_rows(tmp_path / "validation", make_rows(12, seed=5))]

    out = train(continued, tmp_path / "out", init_from="latest", replay=0.0, class_weights="balanced")

    assert math.isfinite(passport(out)["metrics"]["validation_loss"])
    with pytest.raises(BadInput, match=r"^UNKNOWN_LABEL \[label\] validation has labels that train has not: business"):
        train(continued, tmp_path / "other", init_from="base", replay=0.0)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_beyond_the_whole_is_one_clear_line(share: float) -> None:
    with pytest.raises(BadInput, match=r"^BAD_SETTING FineTuneSpec.replay must be at least 0 and below 1"):
        FineTuneSpec(replay=share)
