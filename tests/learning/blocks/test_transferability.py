"""LogME against the evidence maximised by brute force, and how a tokenizer reads texts."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from transfer_learning.blocks.transferability import logme, token_figures


def classes(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, rows)


def features(targets: np.ndarray, width: int, signal: float, seed: int = 1) -> np.ndarray:
    """Return noise, and one direction that tells the classes as strongly as ``signal``."""
    x = np.random.default_rng(seed).normal(size=(len(targets), width))
    x[:, 0] += signal * targets
    return x


def score(x: np.ndarray, targets: np.ndarray) -> float:
    return logme(torch.from_numpy(x), torch.from_numpy(targets))


def highest_evidence(x: np.ndarray, y: np.ndarray) -> float:
    """Return the log of the highest evidence a row: y is normal with covariance 1/beta + x x' / alpha."""
    spread, axes = np.linalg.eigh(x @ x.T)
    along = np.square(axes.T @ y)

    def negative(logarithms: np.ndarray) -> float:
        alpha, beta = np.exp(logarithms)
        variances = 1 / beta + np.maximum(spread, 0) / alpha
        return float(np.sum(np.log(2 * np.pi * variances) + along / variances)) / 2

    starts = ([0.0, 0.0], [4.0, 2.0], [-3.0, 3.0], [8.0, 2.0])
    options = {"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-10}
    return max(-minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts) / len(y)


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (40, 80)], ids=["more rows than features", "more features than rows"])
@pytest.mark.parametrize("signal", [3.0, 0.3, 0.0])
def test_it_is_the_highest_evidence_that_a_search_over_both_precisions_finds(rows: int, width: int, signal: float) -> None:
    targets = classes(rows)
    x = features(targets, width, signal)

    expected = np.mean([highest_evidence(x, (targets == number).astype(float)) for number in range(3)])

    assert score(x, targets) == pytest.approx(expected, abs=1e-7)


def test_features_that_tell_the_classes_score_above_noise() -> None:
    targets = classes(200)

    strong, weak, none = (score(features(targets, 20, signal), targets) for signal in (5.0, 1.0, 0.0))

    assert strong > weak > none


def test_turning_or_scaling_the_features_changes_nothing() -> None:
    targets = classes(100)
    x = features(targets, 12, 1.0)
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(12, 12)))

    assert score(7 * x @ rotation, targets) == pytest.approx(score(x, targets), abs=1e-9)


def test_more_features_without_meaning_do_not_raise_it() -> None:
    targets = classes(100)
    x = features(targets, 5, 1.0)

    wider = np.concatenate([x, np.random.default_rng(3).normal(size=(100, 80))], axis=1)

    assert score(wider, targets) < score(x, targets)


def test_a_class_without_a_row_does_not_count() -> None:
    targets = classes(100)
    x = features(targets, 5, 1.0)

    assert score(x, targets + 4) == score(x, targets)


def test_features_that_are_nothing_score_as_the_classes_alone() -> None:
    targets = classes(100)

    found = score(np.zeros((100, 4)), targets)

    expected = [-(np.log(2 * np.pi * np.mean(targets == number)) + 1) / 2 for number in range(3)]
    assert found == pytest.approx(np.mean(expected))


def tokenizer(unknown: str | None = "[UNK]") -> PreTrainedTokenizerFast:
    """Return one that knows ``play``, ``##er``, ``##s``, ``the`` and ``.``."""
    words = ["[PAD]", "[UNK]", "play", "##er", "##s", "the", "."]
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token=unknown)


def test_unknown_tokens_and_broken_words_are_counted() -> None:
    found = token_figures(tokenizer(), ["the players play .", "the xylophone plays"], 64)

    assert found.unknown == 1 / 10  # the play ##er ##s play . the [UNK] play ##s
    assert found.broken == 1 / 7  # players, of seven words


def test_only_the_beginning_of_a_text_is_looked_at() -> None:
    assert token_figures(tokenizer(), ["the play xylophone"], 2).unknown == 0


def test_without_a_token_for_the_unknown_their_share_is_not_known() -> None:
    assert token_figures(tokenizer(unknown=None), ["the play"], 64).unknown is None
