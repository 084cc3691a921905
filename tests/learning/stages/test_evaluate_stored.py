"""A probe answers the test rows from stored features: what it would have answered, without running the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from learning.tiny_model import make_rows, write_base, write_rows
from transfer_learning.blocks.evaluation.scoring import SAMPLE
from transfer_learning.blocks.predict import Classifier
from transfer_learning.specs import EvaluateSpec, FeatureSpec, FineTuneSpec
from transfer_learning.stage import Run
from transfer_learning.stages.evaluate import evaluate
from transfer_learning.stages.feature_extract import feature_extract
from transfer_learning.stages.fine_tune import fine_tune

PROBE = {"strategy": "linear_probe", "precision": "fp32"}


class Night:
    """A base with features of its train and test rows, and models that were made from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = {"base": [write_base(folder / "base")]}
        for split, seed in (("train", 0), ("test", 1)):
            self.inputs[split] = [write_rows(folder / split, make_rows(40, seed=seed))]
        self.parts = self.extract("features")

    def extract(self, name: str, **settings: Any) -> list[Path]:
        (self.folder / name).mkdir()
        (self.folder / f"{name}-out").mkdir()
        spec = FeatureSpec(splits=("train", "test"), precision="fp32", **settings)
        feature_extract(spec, self.inputs, self.folder / f"{name}-out", Run(threads=1, new_cache=self.folder / name))
        return [self.folder / name]

    def train(self, name: str, **settings: Any) -> list[Path]:
        (self.folder / name).mkdir()
        inputs = {role: self.inputs[role] for role in ("base", "train")}
        fine_tune(FineTuneSpec(**PROBE | settings), inputs, self.folder / name, Run(threads=1))
        return [self.folder / name / "model"]

    def judge(self, name: str, **inputs: list[Path]) -> dict[str, Any]:
        (self.folder / name).mkdir()
        facts = {"answer_from_features": [role for role in ("candidate", "champion") if "features" in inputs]}
        models = {"test": self.inputs["test"]} | inputs
        run = Run(threads=1, facts=facts, progress_file=self.folder / f"{name}.jsonl")
        evaluate(EvaluateSpec(), models, self.folder / name, run)
        return json.loads((self.folder / name / "verdict.json").read_text())

    def told(self, name: str) -> list[tuple[str, str | None]]:
        """Return what the task's log can tell of an evaluation: phases in their order, and a reason where there is one."""
        lines = (json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text().splitlines())
        return [(line["phase"], line.get("reason")) for line in lines]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each model was run on."""
    found: list[int] = []
    see = Classifier.see

    def counted(self: Classifier, texts: list[str], *rest: Any, **options: Any) -> Any:
        found.append(len(texts))
        return see(self, texts, *rest, **options)

    monkeypatch.setattr(Classifier, "see", counted)
    return found


def test_two_probes_answer_as_if_they_had_been_run_and_none_is(night: Night, run: list[int]) -> None:
    models = {
        "candidate": night.train("one"),
        "champion": night.train("other", class_weights="balanced", classifier="linear_svm"),
    }
    plain = night.judge("plain", **models)
    assert run == [40, 40]
    run.clear()

    stored = night.judge("stored", features=night.parts, **models)

    assert run == [SAMPLE, SAMPLE]
    for who in models:
        assert stored["metrics"][who]["confusion"] == plain["metrics"][who]["confusion"]
        assert stored["metrics"][who]["log_loss"] == pytest.approx(plain["metrics"][who]["log_loss"], abs=1e-5)
    assert "the candidate answered 40 of 40 test rows from features that were stored before" in stored["sentences"]


def test_a_row_without_stored_features_is_run(night: Night, run: list[int]) -> None:
    models = {"candidate": night.train("one")}
    night.inputs["test"] = [write_rows(night.folder / "more", [*make_rows(40, seed=1), *make_rows(5, seed=9)])]

    stored = night.judge("stored", features=night.parts, **models)

    assert run == [SAMPLE, 5]
    assert stored["metrics"]["candidate"]["accuracy"] == night.judge("plain", **models)["metrics"]["candidate"]["accuracy"]


def test_rows_that_only_the_champions_data_had_are_run(night: Night, run: list[int]) -> None:
    models = {"candidate": night.train("one"), "champion": night.train("other", classifier="linear_svm")}
    gone = [write_rows(night.folder / "gone", make_rows(6, seed=5))]

    verdict = night.judge("stored", features=night.parts, champion_test=gone, **models)

    assert run == [SAMPLE, 6, SAMPLE, 6]
    assert verdict["slices"][0]["rows"] == 6


def test_a_model_that_sees_something_else_is_run_on_every_row(night: Night, run: list[int]) -> None:
    (model,) = night.train("one")
    weights = load_file(model / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += torch.randn(len(weights["embeddings.LayerNorm.bias"])) * 5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})

    verdict = night.judge("stored", candidate=[model], features=night.parts)

    assert run == [SAMPLE, 40]
    assert not any("stored before" in sentence for sentence in verdict["sentences"])
    assert "the stored features of the test rows are not what the candidate sees: all were run" in verdict["sentences"]
    (reason,) = [reason for phase, reason in night.told("stored") if phase == "candidate" and reason]
    assert reason == "the stored features are not what it sees of the test rows: all are run"


def test_features_of_other_rows_are_not_said_to_be_wrong(night: Night, run: list[int], caplog: pytest.LogCaptureFixture) -> None:
    models = {"candidate": night.train("one")}
    night.inputs["test"] = [write_rows(night.folder / "others", make_rows(5, seed=9))]

    verdict = night.judge("stored", features=night.parts, **models)

    assert run == [5]
    assert not any("stored" in sentence for sentence in verdict["sentences"])
    assert not any("stored" in message for message in caplog.messages)
    assert not any(reason for _, reason in night.told("stored"))
