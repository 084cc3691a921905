"""A published folder loads with the common libraries in an interpreter that has nothing of this project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from learning.stages.fine_tuning import Job
from learning.tiny_model import CONFIGS
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.stage import Run

TEXTS = ["the goal", "a new market price in the bank", "the star in a new film " * 60]

ARCHITECTURES = {kind: {"epochs": 1} for kind in sorted(CONFIGS)}
POOLED = {
    "probe": {"strategy": "linear_probe"},
    "max": {"strategy": "linear_probe", "pooling": "max"},
    "last_token": {"strategy": "linear_probe", "pooling": "last_token"},
    "concat": {"strategy": "linear_probe", "pooling": "concat", "normalize": True},
    "earlier_layer": {"strategy": "linear_probe", "layer": "encoder.layer.1", "classifier": "linear_svm"},
    "two_shards": {"strategy": "probe_then_fine_tune", "unfreeze_blocks": 1, "epochs": 1, "pooling": "cls"},
    "full": {"strategy": "full", "pooling": "mean", "epochs": 1},
    "gpt2_concat": {"strategy": "gradual_unfreeze", "pooling": "concat", "epochs": 1, "kind": "gpt2"},
}

TRANSFORMERS = """
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
for name in names:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    rows = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.softmax(-1)[0].tolist() for text in texts]
    found = pipeline("text-classification", model=name, truncation=True)(texts, top_k=None, batch_size=3)
    piped = [sorted((entry["label"], entry["score"]) for entry in row) for row in found]
    report(name=name, rows=rows, labels=[model.config.id2label[i] for i in range(3)], piped=piped, length=tokenizer.model_max_length)
"""

SENTENCE_TRANSFORMERS = """
import torch
from sentence_transformers import SentenceTransformer
for name in names:
    model = SentenceTransformer(name, device="cpu")
    rows = torch.tensor(model.encode(texts)).softmax(-1).tolist()
    report(name=name, rows=rows, labels=[model[0].config.id2label[i] for i in range(3)], length=model.max_seq_length)
"""


def load_elsewhere(folder: Path, names: list[str], code: str) -> dict[str, dict]:
    """Load published folders in an isolated interpreter that cannot import this project; return its reports by name."""
    card = (folder / names[0] / "README.md").read_text().split("```python\n")[1].split("```")[0].replace("FOLDER", names[0])
    card = card.replace("BASE", f"{names[0]}/base")
    program = (
        "import importlib.abc, json, sys\n"
        "class Nothing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('transfer_learning', 'airflow_transfer_learning'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        f"texts, names = {TEXTS!r}, {names!r}\n"
        "def report(**values): print('REPORT' + json.dumps(values))\n"
        f"{code}\n{card}\nreport(name='card', lines={len(card.splitlines())})\n"
    )
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.removeprefix("REPORT") for line in done.stdout.splitlines() if line.startswith("REPORT")]
    return {found["name"]: found for found in map(json.loads, lines)}


def publish(folder: Path, wanted: dict[str, dict], code: str) -> tuple[Path, dict[str, dict]]:
    """Publish each model as ``folder/name`` and load all of them elsewhere: starting an interpreter costs more than training."""
    for name, settings in wanted.items():
        job = Job(folder / f"{name}-job", kind=settings.get("kind", name if name in CONFIGS else "bert"))
        job.run(**{setting: value for setting, value in settings.items() if setting != "kind"})
        (job.folder / "out" / "model").rename(folder / name)
    return folder, load_elsewhere(folder, list(wanted), code)


@pytest.fixture(scope="module")
def transformers_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    return publish(tmp_path_factory.mktemp("transformers"), ARCHITECTURES, TRANSFORMERS)


@pytest.fixture(scope="module")
def pooled_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    return publish(tmp_path_factory.mktemp("pooled"), POOLED, SENTENCE_TRANSFORMERS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architectures_own_head_loads_with_transformers(transformers_models: tuple, name: str) -> None:
    folder, reports = transformers_models

    ours = load_classifier(folder / name).probabilities(TEXTS)

    assert reports[name]["labels"] == ["business", "film", "sport"]
    assert np.allclose(reports[name]["rows"], ours, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_pipeline_names_labels_and_takes_texts_longer_than_the_model(transformers_models: tuple, name: str) -> None:
    _, reports = transformers_models

    labels = [[label for label, _ in row] for row in reports[name]["piped"]]
    scores = [[score for _, score in row] for row in reports[name]["piped"]]

    assert labels == [["business", "film", "sport"]] * 3
    assert np.allclose(scores, reports[name]["rows"], atol=1e-5)


@pytest.mark.parametrize("name", POOLED)
def test_a_pooled_head_loads_with_sentence_transformers(pooled_models: tuple, name: str) -> None:
    folder, reports = pooled_models

    ours = load_classifier(folder / name).probabilities(TEXTS)

    assert reports[name]["labels"] == ["business", "film", "sport"]
    assert reports[name]["length"] == json.loads((folder / name / "passport.json").read_text())["max_length"]
    assert np.allclose(reports[name]["rows"], ours, atol=1e-5)


@pytest.mark.parametrize("models", ["transformers_models", "pooled_models"])
def test_the_cards_three_lines_run(models: str, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue(models)[1]["card"]["lines"] == 3


def test_the_card_tells_data_settings_and_metrics(tmp_path: Path) -> None:
    job = Job(tmp_path, rows=21, validation=6)
    facts = {
        "model": "topics",
        "base": {"uri": "hf://org/tiny@abc", "digest": "d1"},
        "dataset": {"name": "news", "digest": "d2", "splits": {"train": 21}},
        "as_of": "2026-01-01T00:00:00+00:00",
    }

    metrics = job.run(run=Run(threads=1, facts=facts), epochs=1)

    card = (tmp_path / "out" / "model" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "org/tiny"
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == metrics["validation_accuracy"]
    for text in (
        "# topics",
        "`news`, snapshot `d2`",
        "hf://org/tiny@abc",
        "| business | 7 / 2 |",
        "2026-01-01",
        "| epochs | 1 |",
    ):
        assert text in card


def test_the_passport_says_where_the_model_comes_from(tmp_path: Path) -> None:
    run = Run(threads=1, facts={"base": {"uri": "file:///base#1", "digest": "d1"}})
    Job(tmp_path).run(strategy="linear_probe", precision="fp32", run=run)

    passport = json.loads((tmp_path / "out" / "model" / "passport.json").read_text())

    assert (passport["format"], passport["model_format"]) == (1, "sentence_transformers")
    assert passport["base"]["digest"] == "d1"
    assert passport["heads"] == [
        {
            "name": "label",
            "kind": "classification",
            "labels": ["business", "film", "sport"],
            "pooling": "mean",
            "normalize": False,
            "layers": [3],
            "file": "2_Dense/model.safetensors",
        }
    ]
    assert passport["spec"]["strategy"] == "linear_probe"
    assert passport["numerics"]["precision"] == "fp32"
