"""Real news and a real pretrained model: headlines of BBC News into five topics, with few labels."""

import random
from pathlib import Path

import pytest

from learning.real_news import BASE, headlines
from learning.tiny_model import write_rows
from transfer_learning.blocks.predict import load_classifier
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import Run
from transfer_learning.stages.fine_tune import fine_tune


def accuracy(folder: Path, labelled: int, draw: int, **settings: object) -> float:
    rows = headlines()
    test, rest = rows[:500], rows[500:]
    random.Random(draw).shuffle(rest)
    inputs = {"base": [BASE], "train": [write_rows(folder / "train", rest[:labelled])]}
    (folder / "out").mkdir()
    fine_tune(FineTuneSpec(seed=draw, **settings), inputs, folder / "out", Run())
    classifier = load_classifier(folder / "out" / "model")
    found = classifier.probabilities([text for text, _ in test]).argmax(axis=1)
    return sum(classifier.labels[i] == topic for i, (_, topic) in zip(found, test, strict=True)) / len(test)


def test_a_probe_learns_topics_from_eighty_headlines(tmp_path: Path) -> None:
    assert accuracy(tmp_path, 80, draw=0, strategy="linear_probe") > 0.68


@pytest.mark.full
@pytest.mark.parametrize(("labelled", "mean", "lowest"), [(80, 0.79, 0.74), (320, 0.85, 0.82)])
def test_the_defaults_reach_what_they_were_chosen_for(tmp_path: Path, labelled: int, mean: float, lowest: float) -> None:
    found = []
    for draw in range(4):
        (tmp_path / str(draw)).mkdir()
        found.append(accuracy(tmp_path / str(draw), labelled, draw))

    assert sum(found) / len(found) >= mean
    assert min(found) >= lowest
