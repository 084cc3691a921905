"""A quick look at a base model: a bounded sample, the same for the same seed, and what real features tell."""

import dataclasses
from pathlib import Path

import pytest

from learning.real_news import BASE, headlines
from learning.stages.fine_tuning import StoppingRun
from learning.tiny_model import make_rows, write_base, write_rows
from transfer_learning.blocks import measuring, numerics, probe
from transfer_learning.blocks.base_model import load_base
from transfer_learning.blocks.measuring import Measured, measure
from transfer_learning.blocks.rows import Rows, read_rows
from transfer_learning.errors import Stopped
from transfer_learning.specs import TaskSpec
from transfer_learning.stage import Run


def run() -> Run:
    made = Run(threads=1)
    made.numerics |= numerics.choose("fp32", made)
    return made


def read(folder: Path, rows: list[tuple[str, str]]) -> Rows:
    return read_rows([write_rows(folder, rows)], TaskSpec())


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


def test_a_model_that_cannot_end_before_its_last_layer_is_best_there(tmp_path: Path) -> None:
    base, rows = write_base(tmp_path / "base", "gpt2"), read(tmp_path / "train", make_rows(40))

    found = measure(base, rows, "mean", 0, run())

    assert [layer.can_end for layer in found.layers] == [False, False, False, True]
    assert found.best is found.last


def test_too_few_rows_leave_the_accuracy_unknown(tmp_path: Path) -> None:
    rows = read(tmp_path / "train", [("the goal", "sport"), ("the bank", "business")])

    found = measure(write_base(tmp_path / "base"), rows, "mean", 0, run())

    assert found.last.probe is None and found.untrained is None


@pytest.mark.parametrize("polls", [0, 2], ids=["before the first batch", "between two batches"])
def test_a_stop_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, polls: int) -> None:
    rows, stopped = read(tmp_path / "train", make_rows(40)), StoppingRun(threads=1, after=polls)
    stopped.numerics |= run().numerics
    monkeypatch.setattr(probe, "cross_validated", lambda *_, **__: pytest.fail("went on"))

    with pytest.raises(Stopped):
        measure(write_base(tmp_path / "base"), rows, "mean", 0, stopped)


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
