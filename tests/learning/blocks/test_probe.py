"""A linear classifier on features: against the library's own fit, for two and more classes, and calibrated."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from transfer_learning.blocks import probe
from transfer_learning.errors import Stopped


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Handwritten digits: 500 to fit and 1,297 to judge by."""
    images, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(targets))
    x, y = torch.from_numpy(images[order]).float(), torch.from_numpy(targets[order])
    return x[:500], y[:500], x[500:], y[500:]


def chances(fitted: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return (x @ fitted["weight"].T + fitted["bias"]).softmax(dim=-1)


def log_loss(fitted: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> float:
    return float(torch.nn.functional.nll_loss(chances(fitted, x).log(), y))


def test_the_choice_is_no_worse_than_the_librarys_default_penalty(digits: tuple) -> None:
    x, y, test_x, test_y = digits
    scaler = StandardScaler().fit(x)
    default = LogisticRegression(max_iter=2000).fit(scaler.transform(x), y)

    fitted = probe.fit(x, y, 10)

    found = (chances(fitted, test_x).argmax(dim=-1) == test_y).float().mean()
    assert found >= default.score(scaler.transform(test_x), test_y) - 0.005


def test_a_support_vector_machine_answers_as_well_and_is_calibrated(digits: tuple) -> None:
    x, y, test_x, test_y = digits

    fitted = probe.fit(x, y, 10, classifier="linear_svm")

    answers = chances(fitted, test_x)
    right = (answers.argmax(dim=-1) == test_y).float()
    assert right.mean() > 0.92
    assert abs(float(answers.amax(dim=-1).mean() - right.mean())) < 0.06


@pytest.mark.parametrize("classifier", ["softmax", "linear_svm"])
def test_two_classes_are_one_row_of_weights_each(digits: tuple, classifier: str) -> None:
    x, y, test_x, test_y = digits
    kept, judged = y < 2, test_y < 2

    fitted = probe.fit(x[kept], y[kept], 2, classifier=classifier)

    assert fitted["weight"].shape == (2, 64)
    assert (chances(fitted, test_x[judged]).argmax(dim=-1) == test_y[judged]).float().mean() > 0.97


@pytest.mark.parametrize("classifier", ["softmax", "linear_svm"])
def test_balancing_serves_the_rare_class(digits: tuple, classifier: str) -> None:
    x, y, test_x, test_y = digits
    rare, x, test_x = (y != 8) | (torch.arange(len(y)) < 100), x[:, :24], test_x[:, :24]

    plain, balanced = (probe.fit(x[rare], y[rare], 10, classifier=classifier, balanced=balanced) for balanced in (False, True))

    recall = [(chances(fitted, test_x[test_y == 8]).argmax(dim=-1) == 8).float().mean() for fitted in (plain, balanced)]
    assert recall[1] > recall[0]


@pytest.mark.parametrize("classifier", ["softmax", "linear_svm"])
def test_a_class_with_a_single_row_is_no_obstacle(digits: tuple, classifier: str) -> None:
    x, y, _, _ = digits
    first = int((y == 9).nonzero()[0])
    kept = (y != 9) | (torch.arange(len(y)) == first)

    fitted = probe.fit(x[kept], y[kept], 10, classifier=classifier)

    assert torch.isfinite(fitted["weight"]).all()


def test_two_rows_are_enough() -> None:
    fitted = probe.fit(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1]), 2)

    assert chances(fitted, torch.tensor([[0.0, 1.0], [1.0, 0.0]])).argmax(dim=-1).tolist() == [0, 1]


def test_features_of_any_scale_give_the_same_answers(digits: tuple) -> None:
    x, y, test_x, _ = digits

    fitted, scaled = probe.fit(x, y, 10), probe.fit(x * 1000 - 5, y, 10)

    assert torch.allclose(chances(fitted, test_x), chances(scaled, test_x * 1000 - 5), atol=1e-3)


def test_a_stop_ends_the_search(digits: tuple) -> None:
    x, y, _, _ = digits

    def stop() -> None:
        raise Stopped("STOPPED")

    with pytest.raises(Stopped):
        probe.fit(x, y, 10, poll=stop)
