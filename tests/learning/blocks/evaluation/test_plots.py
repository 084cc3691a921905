"""The pictures of a verdict: drawn for every size, without shared state."""

import sys
import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from transfer_learning.blocks.evaluation.metrics import calibration, classification_metrics
from transfer_learning.blocks.evaluation.plots import draw_calibration, draw_confusion, draw_per_class


def answered(count, rows=300, skill=0.8, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"label ${i}_$ of 日本 with a long name" for i in range(count)]
    labels = rng.integers(0, count, rows)
    answers = np.where(rng.random(rows) < skill, labels, rng.integers(0, count, rows))
    metrics, _ = classification_metrics([names[i] for i in labels], [names[i] for i in answers], names)
    return metrics, calibration(rng.uniform(0.3, 1, rows), labels == answers, samples=200)


@pytest.mark.parametrize("labels", [1, 2, 5, 60])
def test_every_picture_is_drawn_without_a_warning_and_fits_a_screen(tmp_path, labels):
    (ours, calibrated), (theirs, other) = answered(labels), answered(labels, skill=0.7)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(tmp_path / "confusion.png", ours["confusion"], ours["labels"], "Candidate")
        draw_calibration(tmp_path / "calibration.png", calibrated, other)
        draw_per_class(tmp_path / "per_class.png", ours, theirs)

    for name in ("confusion", "calibration", "per_class"):
        picture = imread(tmp_path / f"{name}.png")
        assert 200 < picture.shape[0] < 2600
        assert 500 < picture.shape[1] < 2600
        assert 0.001 < np.mean(picture[..., :3].min(axis=2) < 0.9) < 0.9  # neither blank nor one block


def test_pictures_of_a_first_version_show_no_champion(tmp_path):
    ours, calibrated = answered(3)
    theirs, _ = answered(3, skill=0.5)

    draw_per_class(tmp_path / "alone.png", ours, None)
    draw_per_class(tmp_path / "both.png", ours, theirs)
    draw_calibration(tmp_path / "calibration.png", calibrated, None)

    orange = np.array([230, 159, 0]) / 255
    shown = [
        np.any(np.all(np.isclose(imread(tmp_path / f"{n}.png")[..., :3], orange, atol=0.01), axis=2)) for n in ("alone", "both")
    ]
    assert shown == [False, True]


def test_pyplot_keeps_no_figure(tmp_path):
    ours, _ = answered(3)

    draw_per_class(tmp_path / "alone.png", ours, None)

    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
