"""Supervised pretraining from folders to a folder: a classifier of a source task, whose backbone goes on and whose head does not."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from learning.stages.fine_tuning import files, weight_hashes
from learning.stages.pretraining import SCRATCH, Job
from learning.tiny_model import POSITIONS, make_rows, write_rows
from transfer_learning.blocks.backbone import ARCHITECTURES
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.model_folder import PASSPORT
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.errors import BadInput
from transfer_learning.specs import FineTuneSpec, TaskSpec
from transfer_learning.specs.architectures import OBJECTIVES
from transfer_learning.stage import NUMERICS_VERSIONS, Run
from transfer_learning.stages.fine_tune import fine_tune

WRITTEN = ["README.md", "config.json", "model.safetensors", "passport.json", "tokenizer.json", "tokenizer_config.json"]
TOPICS = ["business", "film", "sport"]
QUICK = {"objective": "supervised", "epochs": 1, "batch_size": 8, "precision": "fp32"}
FROM_SCRATCH = {**QUICK, **SCRATCH, "vocab_size": 300}
STILL = 1e-12
"""A rate at which nothing moves."""


def passport(out: Path) -> dict[str, Any]:
    return json.loads((out / "model" / PASSPORT).read_text())


def tune(job: Job, base: Path, name: str = "tuned", model: str = "news", **settings: Any) -> Path:
    out = job.folder / name
    out.mkdir()
    run = Run(threads=1, facts={"model": model})
    fine_tune(FineTuneSpec(**{"epochs": 1, "precision": "fp32"} | settings), job.inputs | {"base": [base]}, out, run)
    return out


def test_labels_are_learned_by_every_architecture_that_can_be_a_classifier() -> None:
    assert OBJECTIVES["supervised"] == tuple(ARCHITECTURES)


@pytest.mark.parametrize("kind", OBJECTIVES["supervised"])
def test_every_classifier_starts_from_scratch_with_a_tokenizer_of_its_own(tmp_path: Path, kind: str) -> None:
    metrics = Job(tmp_path, kind=None).run(**FROM_SCRATCH, architecture=kind)

    model, found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "model", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert files(tmp_path / "out") == sorted(["ledger.parquet", *(f"model/{name}" for name in WRITTEN)])
    assert not any(found[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert [model.config.id2label[number] for number in range(3)] == TOPICS
    assert model.num_parameters() == metrics["parameters"]
    assert len(tokenizer) == metrics["vocabulary"] == model.config.vocab_size
    assert tokenizer.model_max_length == 32


@pytest.mark.parametrize("start", ["continued", "scratch"])
def test_it_learns_the_source_task(tmp_path: Path, start: str) -> None:
    job = Job(tmp_path, documents=90, validation=60, kind="bert" if start == "continued" else None)
    settings = QUICK if start == "continued" else {**FROM_SCRATCH, "architecture": "bert"}

    metrics = job.run(**{**settings, "epochs": 12, "learning_rate": 3e-3})

    texts, labels = zip(*make_rows(60, seed=3), strict=True)
    classifier = load_classifier(tmp_path / "out" / "model")
    told = [classifier.labels[number] for number in classifier.probabilities(list(texts)).argmax(axis=1)]
    assert metrics["validation_accuracy"] > 0.9
    assert sum(a == b for a, b in zip(told, labels, strict=True)) >= 54
    assert (metrics["pretrain_epochs"], metrics["rows"], metrics["steps"]) == (12, 90, 144)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_loss_is_that_of_transformers(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, documents=24, validation=24, kind=kind)

    metrics = job.run(**QUICK)

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    texts, labels = zip(*make_rows(24, seed=1), strict=True)
    batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**batch, labels=torch.tensor([TOPICS.index(label) for label in labels])).loss
    assert metrics["validation_loss"] == pytest.approx(float(theirs), rel=1e-4)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_transfer_takes_the_backbone_and_throws_the_head_away_whatever_its_labels_are_called(tmp_path: Path, kind: str) -> None:
    job = Job(tmp_path, kind=kind)
    job.run("source", **QUICK)

    out = tune(job, tmp_path / "source" / "model", backbone_lr=STILL, seed=5)

    source, tuned = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "source", out))
    model = AutoModelForSequenceClassification.from_pretrained(out / "model")
    head = f"{ARCHITECTURES[kind].output}.weight"
    body = {name for name in source if name.startswith(f"{model.base_model_prefix}.")}
    assert passport(out)["labels"] == passport(tmp_path / "source")["labels"] == TOPICS
    assert passport(out)["base"]["head_labels"] == []
    assert len(body) > 10
    assert all(torch.allclose(source[name], tuned[name], atol=1e-6) for name in body)
    assert not torch.allclose(source[head], tuned[head], atol=1e-3)


def test_a_version_of_its_name_takes_no_label_from_a_source_task(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run("source", Run(threads=1, facts={"model": "news"}), **QUICK)
    job.inputs["train"] = [write_rows(tmp_path / "two", [row for row in make_rows(40) if row[1] != "film"])]

    out = tune(job, tmp_path / "source" / "model", init_from="latest")

    assert passport(out)["labels"] == ["business", "sport"]


def test_a_source_task_goes_on_with_the_head_it_has(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run("first", **QUICK)
    job.inputs["base"] = [tmp_path / "first" / "model"]

    job.run("second", **QUICK, learning_rate=STILL)

    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("first", "second"))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_a_language_model_learns_labels_and_the_other_way_round(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run("language", epochs=1, max_length=32)
    job.inputs["base"] = [tmp_path / "language" / "model"]
    job.run("labels", **QUICK)
    job.inputs["base"] = [tmp_path / "labels" / "model"]

    metrics = job.run("language again", epochs=1, max_length=32)

    assert metrics["head_epochs"] == 1
    assert math.isfinite(metrics["train_loss"])


def test_rows_without_a_label_and_test_rows_are_not_read(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run("without", **QUICK)
    job.inputs["unlabelled"] = [write_rows(tmp_path / "unlabelled", make_rows(30, seed=4))]
    job.inputs["test"] = [write_rows(tmp_path / "test", make_rows(30, seed=9))]

    job.run("with", **QUICK)

    assert weight_hashes(tmp_path / "with") == weight_hashes(tmp_path / "without")
    ledger = pq.read_table(tmp_path / "with" / "ledger.parquet")
    assert set(ledger["row_key"].to_pylist()) == set(pq.read_table(tmp_path / "train")["_row_key"].to_pylist())


def test_a_validation_row_decides_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path)
    settings = {**QUICK, "epochs": 8, "learning_rate": 3e-3}
    job.run("without", **settings)
    job.inputs["validation"] = [write_rows(tmp_path / "validation", [(text, "film") for text, _ in make_rows(12, seed=1)])]

    metrics = job.run("with", **settings)

    assert metrics["pretrain_epochs"] == 8
    assert weight_hashes(tmp_path / "with") == weight_hashes(tmp_path / "without")


def test_pairs_of_texts_are_learned_as_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, kind=None)
    job.inputs["train"] = [write_rows(tmp_path / "pairs", make_rows(40), pairs=True)]
    segments: set[int] = set()
    features = TextClassifier.features

    def watched(self: TextClassifier, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        segments.update(batch["token_type_ids"].unique().tolist())
        return features(self, batch)

    monkeypatch.setattr(TextClassifier, "features", watched)
    job.run(**FROM_SCRATCH, architecture="bert", task=TaskSpec(text_pair="second"))

    assert segments == {0, 1}
    assert "Sorts pairs of texts into 3 classes" in (tmp_path / "out" / "model" / "README.md").read_text()


def test_passport_and_card_say_whose_task_it_is(tmp_path: Path) -> None:
    job = Job(tmp_path, validation=12, kind=None)

    job.run(run=Run(threads=1, facts={"model": "topics", "dataset": {"name": "news"}}), **FROM_SCRATCH, architecture="bert")

    told, card = passport(tmp_path / "out"), (tmp_path / "out" / "model" / "README.md").read_text()
    assert (told["strategy"], told["model_format"], told["labels"]) == ("supervised", "transformers", TOPICS)
    assert told["label_counts"]["train"] == {"business": 20, "film": 20, "sport": 20}
    assert told["numerics"]["version"] == NUMERICS_VERSIONS["pretrain"]
    assert told["settings"]["learning_rate"] == 5e-4
    for text in (
        "# topics",
        "The model of a source task, pretrained on its labels",
        "throws this head away",
        "From scratch: every weight started at random",
        "| validation_accuracy |",
        "| objective | supervised |",
        'pipeline("text-classification"',
    ):
        assert text in card


def test_what_is_left_open_is_as_in_fine_tuning_where_a_base_is_continued(tmp_path: Path) -> None:
    Job(tmp_path).run(objective="supervised")

    found = passport(tmp_path / "out")["settings"]
    assert {name: found[name] for name in ("epochs", "batch_size", "learning_rate")} == {
        "epochs": 11,
        "batch_size": 8,
        "learning_rate": 1e-3,
    }
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").model_max_length == POSITIONS


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([(text, "film") for text, _ in make_rows(9)], r"^ONE_CLASS \[label\] train has 9 rows, all 'film'"),
        ([], "^NO_ROWS .* train has no row"),
        ([("", "film"), ("a goal", "sport")], r"^MISSING_TEXT \[text\] train: 1 of 2 rows have no text"),
    ],
)
def test_rows_that_cannot_teach_are_one_clear_line(tmp_path: Path, rows: list, line: str) -> None:
    job = Job(tmp_path)
    job.inputs["train"] = [write_rows(tmp_path / "bad", rows)]

    with pytest.raises(BadInput, match=line):
        job.run(**QUICK)

    assert files(tmp_path / "out") == []


@pytest.mark.promise(27)
@pytest.mark.parametrize(
    ("kind", "settings", "line"),
    [
        ("bert", {"max_length": 49}, "^BAD_SETTING max_length is 49, and the base model takes 48 tokens"),
        ("bert", {"architecture": "bert"}, "^BAD_SETTING architecture is 'bert', which starts from scratch, and there is a base"),
        (None, {}, "^NO_BASE there is nothing to continue from"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_line(tmp_path: Path, kind: str | None, settings: dict, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        Job(tmp_path, kind=kind).run(**QUICK, **settings)


def test_without_a_labelled_row_there_is_nothing_to_learn(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.inputs["unlabelled"] = job.inputs.pop("train")

    with pytest.raises(BadInput, match="^NO_ROWS train: no Parquet part"):
        job.run(**QUICK)


def test_a_label_that_only_the_validation_has_is_one_clear_line(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.inputs["validation"] = [write_rows(tmp_path / "validation", [("a goal", "weather")])]

    with pytest.raises(BadInput, match=r"^UNKNOWN_LABEL \[label\] validation has labels that train has not: weather"):
        job.run(**QUICK)
