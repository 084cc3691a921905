"""A quick look at a base model: a bounded sample, the same for the same seed, and what real features tell."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from learning.real_news import BASE, headlines
from learning.tiny_model import make_rows, write_base, write_rows
from transfer_learning.blocks import measuring, numerics
from transfer_learning.blocks.base_model import load_base, untrained
from transfer_learning.blocks.measuring import Measured, draw, measure
from transfer_learning.blocks.rows import Rows, read_rows
from transfer_learning.errors import Stopped
from transfer_learning.specs import TaskSpec
from transfer_learning.stage import Run


def run() -> Run:
    made = Run(threads=1)
    made.numerics |= numerics.choose("fp32", made)
    return made


def labelled(*counts: int) -> Rows:
    """Return rows without text of so many rows a class."""
    labels = [f"class {number}" for number, count in enumerate(counts) for _ in range(count)]
    texts = [""] * len(labels)
    return Rows(texts, None, labels, tuple(sorted(set(labels))), [], [], {})


def read(folder: Path, rows: list[tuple[str, str]]) -> Rows:
    return read_rows([write_rows(folder, rows)], TaskSpec())


def test_each_class_is_drawn_by_its_share() -> None:
    rows = labelled(3000, 1500, 500)

    found = Counter(rows.labels[place] for place in draw(rows, seed=0, most=1000))

    assert found == {"class 0": 600, "class 1": 300, "class 2": 100}


def test_the_beginning_of_a_sample_is_one_too() -> None:
    rows = labelled(3000, 1500, 500)

    found = Counter(rows.labels[place] for place in draw(rows, seed=0, most=1000)[:300])

    assert [abs(found[f"class {number}"] - expected) <= 6 for number, expected in enumerate((180, 90, 30))] == [True] * 3


def test_a_rare_class_comes_with_its_first_rows() -> None:
    rows = labelled(20_000, 4, 40)

    found = Counter(rows.labels[place] for place in draw(rows, seed=0, most=1000))

    assert found["class 1"] == 4
    assert found["class 2"] >= measuring.FEWEST_OF_CLASS


def test_every_row_is_drawn_once_where_all_fit_and_by_seed_where_not() -> None:
    rows = labelled(60, 40)

    assert sorted(draw(rows, seed=0)) == list(range(100))
    assert np.array_equal(draw(rows, 1, 50), draw(rows, 1, 50))
    assert not np.array_equal(draw(rows, 1, 50), draw(rows, 2, 50))


def test_the_sample_keeps_within_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read(tmp_path / "train", make_rows(60))
    monkeypatch.setattr(measuring, "MOST_TOKENS", 200)
    monkeypatch.setattr(measuring, "LONGEST", 16)

    base = load_base(write_base(tmp_path / "base"), [], "mean", 0)
    sample, tokens = measuring._sample(base, rows, seed=0)

    assert 5 < len(sample) == len(tokens) < 60
    assert 200 - 16 < len(tokens.ids) <= 200
    assert max(tokens.lengths) <= 16
    assert len(set(sample.labels)) == 3


def test_the_same_seed_measures_the_same(tmp_path: Path) -> None:
    base, rows = write_base(tmp_path / "base"), read(tmp_path / "train", make_rows(40))

    assert measure(base, rows, "mean", 0, run()) == measure(base, rows, "mean", 0, run())
    assert measure(base, rows, "mean", 0, run()) != measure(base, rows, "mean", 1, run())


def test_every_layer_is_probed_where_asked_and_else_the_last_and_the_best(tmp_path: Path) -> None:
    base, rows = write_base(tmp_path / "base"), read(tmp_path / "train", make_rows(40))

    some, every = (measure(base, rows, "mean", 0, run(), every_layer=every) for every in (False, True))

    assert {layer.number for layer in some.layers if layer.probe} == {some.best.number, 3}
    assert [layer.number for layer in every.layers if layer.probe] == [0, 1, 2, 3]
    assert [layer.logme for layer in some.layers] == [layer.logme for layer in every.layers]


def test_too_few_rows_leave_the_accuracy_unknown(tmp_path: Path) -> None:
    rows = read(tmp_path / "train", [("the goal", "sport"), ("the bank", "business")])

    found = measure(write_base(tmp_path / "base"), rows, "mean", 0, run())

    assert found.last.probe is None and found.untrained is None


def test_a_stop_is_heard(tmp_path: Path) -> None:
    rows, stopped = read(tmp_path / "train", make_rows(40)), run()
    stopped._stop = True

    with pytest.raises(Stopped):
        measure(write_base(tmp_path / "base"), rows, "mean", 0, stopped)


def test_random_weights_are_those_of_the_seed_and_of_the_same_shape(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    own = load_base(base, [], "mean", 0).model.state_dict()

    first, again, other = (untrained(base, seed).state_dict() for seed in (0, 0, 1))

    assert {name: tensor.shape for name, tensor in first.items() if "pooler" not in name} == {
        name: tensor.shape for name, tensor in own.items() if "pooler" not in name
    }
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], own[name])


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measure(BASE, read(tmp_path_factory.mktemp("real") / "train", headlines()[:320]), "mean", 0, run())


def test_features_of_a_pretrained_model_tell_topics_and_random_ones_do_not(minilm: Measured) -> None:
    last, random = minilm.last.probe, minilm.untrained

    assert last is not None and random is not None
    assert last.mean > 0.75
    assert last.mean - random.mean > 0.2
    assert minilm.tokens.unknown == 0
    assert 0 < (minilm.tokens.broken or 0) < 0.1


def test_a_pretrained_model_scores_above_a_tiny_one_with_random_weights(minilm: Measured, tmp_path: Path) -> None:
    tiny = measure(write_base(tmp_path / "base"), read(tmp_path / "train", headlines()[:320]), "mean", 0, run())

    assert min(layer.logme for layer in minilm.layers) > max(layer.logme for layer in tiny.layers)
    assert (tiny.tokens.unknown or 0) > 0.5
    assert dataclasses.asdict(tiny.tokens) == tiny.to_dict()["tokens"]
