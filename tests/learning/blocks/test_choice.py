"""What ``auto`` chooses from which measurements, and what it says."""

from pathlib import Path
from typing import Any

import pytest

from learning.tiny_model import make_rows, write_rows
from transfer_learning.blocks.choice import Choice, Source, choose, look_up
from transfer_learning.blocks.ledger import write_ledger
from transfer_learning.blocks.measuring import Layer, Measured
from transfer_learning.blocks.probe import Accuracy
from transfer_learning.blocks.rows import read_rows
from transfer_learning.blocks.transferability import TokenFigures
from transfer_learning.specs import FineTuneSpec, TaskSpec

NOBODY_KNOWS = Source(None)


def measured(
    last: float | None = 0.8,
    *,
    best: float | None = None,
    random: float = 0.4,
    unknown: float | None = 0.0,
    broken: float | None = 0.01,
    sampled: int = 300,
) -> Measured:
    """Return what a look at three layers may tell; ``best`` is the accuracy of layer 1 where that has the highest LogME."""

    def accuracy(mean: float | None) -> Accuracy | None:
        return None if mean is None else Accuracy(mean, 0.02)

    layers = (
        Layer(number=0, logme=0.9, can_end=False, probe=None),
        Layer(number=1, logme=0.5 if best else 0.1, can_end=True, probe=accuracy(best)),
        Layer(number=2, logme=0.3, can_end=True, probe=accuracy(last)),
    )
    tokens = TokenFigures(unknown=unknown, broken=broken)
    return Measured(sampled=sampled, layers=layers, untrained=accuracy(random if last else None), tokens=tokens)


def chosen(look: Measured | None, rows: int = 300, source: Source = NOBODY_KNOWS, pairs: bool = False, **given: Any) -> Choice:
    return choose(FineTuneSpec(strategy="auto", **given), rows, source, look, pairs=pairs)


def has(choice: Choice, part: str) -> bool:
    return any(part in sentence for sentence in choice.sentences)


@pytest.mark.parametrize(
    ("rows", "look", "expected"),
    [
        (300, measured(0.8), {"strategy": "full"}),
        (10_000, measured(0.8), {"strategy": "full"}),
        (300, measured(0.98), {"strategy": "linear_probe"}),
        (10_000, measured(0.98), {"strategy": "linear_probe"}),
        (12, measured(0.8), {"strategy": "linear_probe"}),
        (12, measured(0.8, random=0.78), {"strategy": "linear_probe", "classifier": "linear_svm"}),
        (12, measured(0.8, unknown=0.3), {"strategy": "linear_probe", "classifier": "linear_svm"}),
        (12, measured(0.8, best=0.81), {"strategy": "linear_probe"}),
        (12, measured(0.8, best=0.85), {"strategy": "linear_probe", "layer": 1, "classifier": "linear_svm"}),
        (300, measured(0.8, best=0.99), {"strategy": "linear_probe", "layer": 1, "classifier": "linear_svm"}),
        (300, measured(0.6, broken=0.27), {"strategy": "linear_probe", "classifier": "linear_svm"}),
        (300, measured(0.6, unknown=0.3), {"strategy": "linear_probe", "classifier": "linear_svm"}),
        (10_000, measured(0.6, broken=0.27), {"strategy": "full"}),
        (300, measured(None), {"strategy": "linear_probe"}),
        (10_000, measured(None), {"strategy": "full"}),
        (300, None, {"strategy": "full"}),
    ],
    ids=[
        "small, something to gain",
        "large, something to gain",
        "small, nothing to gain",
        "large, nothing to gain",
        "fewer than was tried",
        "no better than random weights",
        "a text unlike the base's",
        "an earlier layer hardly better",
        "an earlier layer clearly better",
        "nothing to gain over an earlier layer",
        "another language, small",
        "another alphabet, small",
        "another language, large",
        "too few rows to measure",
        "large and not measured",
        "every label known to the base",
    ],
)
def test_the_table_is_corrected_by_what_was_measured(rows: int, look: Measured | None, expected: dict[str, Any]) -> None:
    assert chosen(look, rows).settings == expected


@pytest.mark.parametrize(("accuracy", "expected"), [(0.969, "full"), (0.971, "linear_probe")])
def test_a_sixth_of_the_errors_must_be_half_a_point(accuracy: float, expected: str) -> None:
    assert chosen(measured(accuracy)).settings["strategy"] == expected


def test_rows_that_the_base_has_read_are_similar_to_its_own() -> None:
    look = measured(0.8, random=0.78)

    assert chosen(look, 12, Source(0.7)).settings == {"strategy": "linear_probe"}
    assert chosen(look, 12, Source(0.3)).settings["classifier"] == "linear_svm"


def test_what_a_probe_has_no_use_for_is_left_out_and_told() -> None:
    choice = chosen(measured(0.99), epochs=3, backbone_lr=1e-4, schedule="slanted_triangular")

    settled = FineTuneSpec(strategy="auto", epochs=3, backbone_lr=1e-4, schedule="slanted_triangular", seed=4).merged(
        choice.settings
    )
    assert settled == FineTuneSpec(strategy="linear_probe", seed=4)
    assert has(choice, "epochs and backbone_lr and schedule are left out")


@pytest.mark.parametrize("given", [{"pooling": "architecture"}, {"pairs": True}], ids=["given", "pairs"])
def test_the_architectures_own_head_has_neither_layer_nor_machine(given: dict[str, Any]) -> None:
    assert chosen(measured(0.8, best=0.99), **given).settings == {"strategy": "linear_probe"}


def test_a_head_with_a_rate_of_its_own_is_trained_by_steps_and_no_machine() -> None:
    assert "classifier" not in chosen(measured(0.8, random=0.79), 12, head_lr=1e-2).settings


def test_the_sentences_give_every_number() -> None:
    choice = chosen(measured(0.81, best=0.83, random=0.43, unknown=0.002, broken=0.012), 320, Source(0.25))

    assert choice.sentences == (
        "320 labelled rows: small (small is below 5,000).",
        "The base has read 25% of these rows before, its ledger says; what came before the ledger: unknown.",
        "Measured on 300 of them, 64 tokens each at most: a probe on the last layer is right on 0.81 +- 0.02 by cross-validation, "
        "on random weights on 0.43 +- 0.02: its features carry over.",
        "LogME by layer, embeddings first: 0.900, 0.500, 0.300; the best is layer 1, where a probe is right on 0.83 +- 0.02.",
        "Words broken into 3 or more pieces: 1.2%; unknown tokens: 0.2%.",
        "The table's choice for small data similar to the base's: a linear classifier on the last layer.",
        "The probe leaves something to gain: full fine-tuning takes about a sixth of a probe's errors away, 3.2 points here, "
        "0.5 or more.",
        "So: full.",
    )


def test_what_cannot_be_known_is_called_unknown() -> None:
    choice = chosen(measured(None, unknown=None, broken=None), 4)

    assert has(choice, "trained on: unknown")
    assert has(choice, "accuracy is unknown")
    assert has(choice, "pieces: unknown, the tokenizer tells no words; unknown tokens: none can be")
    assert choice.figures["known_share"] is None and choice.figures["untrained"] is None


def test_a_choice_survives_json() -> None:
    choice = chosen(measured())

    assert Choice.from_dict(choice.to_dict()).to_dict() == choice.to_dict()


@pytest.fixture
def rows_and_ledger(tmp_path: Path) -> tuple[Any, Path]:
    """Return 40 rows, and a ledger with 10 of them."""
    made = make_rows(40)
    (tmp_path / "ledger").mkdir()
    write_ledger(tmp_path / "ledger" / "ledger.parquet", [read_rows([write_rows(tmp_path / "known", made[:10])], TaskSpec())])
    return read_rows([write_rows(tmp_path / "all", made)], TaskSpec()), tmp_path / "ledger"


def test_the_ledger_tells_which_rows_the_base_has_read(rows_and_ledger: tuple[Any, Path], tmp_path: Path) -> None:
    rows, ledger = rows_and_ledger

    source, fresh = look_up(tmp_path, rows, [ledger])

    assert source == Source(0.25, taught=False)
    assert fresh is rows
    assert look_up(tmp_path, rows, []) == (Source(None), rows)


def test_rows_whose_labels_the_base_has_learned_do_not_measure_it(rows_and_ledger: tuple[Any, Path], tmp_path: Path) -> None:
    rows, ledger = rows_and_ledger
    (tmp_path / "passport.json").write_text('{"labels": ["sport", "film"]}')

    source, fresh = look_up(tmp_path, rows, [ledger])

    assert source == Source(0.25, taught=True)
    assert len(fresh) == 30
