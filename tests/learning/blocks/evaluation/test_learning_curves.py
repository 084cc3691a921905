"""Several methods side by side: what they are called, their intervals, and what follows in words."""

import warnings
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from transfer_learning.blocks.evaluation.learning_curves import (
    MAJORITY,
    WORDS,
    Cell,
    Point,
    best,
    method_names,
    points,
    read_cells,
    sentences,
    table,
)
from transfer_learning.blocks.evaluation.plots import draw_curves
from transfer_learning.errors import BadInput
from transfer_learning.specs import FineTuneSpec


def facts(base: str = "hf://org/base@1", rows: int = 40, **spec: Any) -> dict[str, Any]:
    return {"spec": FineTuneSpec(**spec).to_dict(), "base": {"uri": base}, "metrics": {"rows": rows}}


def evaluated(accuracy: float, words: float | None = 0.5, test: str = "a", **candidate: Any) -> dict[str, Any]:
    baselines = {"tfidf": None if words is None else {"accuracy": words}, "majority": {"accuracy": 0.3}}
    metrics = {"candidate": {"accuracy": accuracy, "rows": 500}, "baselines": baselines}
    return {"facts": facts(**candidate), "verdict": {"test": {"digest": test}, "metrics": metrics}}


def point(method: str, rows: int, accuracy: float, reach: float = 0.01) -> Point:
    return Point(method=method, train_rows=rows, draws=3, accuracy=accuracy, low=accuracy - reach, high=accuracy + reach)


CURVES = [
    point("full", 40, 0.70),
    point("full", 160, 0.80),
    point("linear_probe", 40, 0.69),
    point("linear_probe", 160, 0.75),
    point(WORDS, 40, 0.30),
    point(WORDS, 160, 0.40),
    point(MAJORITY, 40, 0.2),
    point(MAJORITY, 160, 0.2),
]


def test_a_method_is_called_by_its_strategy_and_by_what_tells_it_from_the_others() -> None:
    names = method_names(
        [
            facts(),
            facts(strategy="linear_probe", train_rows=80, seed=3),
            facts(init_from="scratch", epochs=20),
            facts(strategy="lora", lora_rank=4),
            facts(strategy="lora", lora_rank=16),
            facts(strategy="lora"),
            facts(base="model://bbc-language@2"),
        ]
    )

    assert names == [
        "full",
        "linear_probe",
        "full from scratch",
        "lora, lora_rank 4",
        "lora, lora_rank 16",
        "lora, lora_rank as it comes",
        "full on bbc-language@2",
    ]


def test_each_candidate_is_a_cell_and_each_draw_of_a_baseline_one_more() -> None:
    cells = read_cells(
        [
            evaluated(0.8, rows=40),
            evaluated(0.7, rows=40, strategy="linear_probe"),
            evaluated(0.9, rows=40, words=0.6, seed=1),
            evaluated(0.6, rows=8, words=None),
        ]
    )

    assert [(cell.method, cell.train_rows, cell.seed, cell.accuracy) for cell in cells] == [
        ("full", 40, 0, 0.8),
        ("linear_probe", 40, 0, 0.7),
        ("full", 40, 1, 0.9),
        ("full", 8, 0, 0.6),
        (WORDS, 40, 0, 0.5),
        (MAJORITY, 40, 0, 0.3),
        (WORDS, 40, 1, 0.6),
        (MAJORITY, 40, 1, 0.3),
        (MAJORITY, 8, 0, 0.3),
    ]


@pytest.mark.parametrize(
    ("candidates", "line"),
    [
        ([], "NO_VERDICTS there is no verdict to compare"),
        ([evaluated(0.8), evaluated(0.8, test="b")], "OTHER_TEST_ROWS the verdicts are on 2 different sets of test rows"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(candidates: list[dict[str, Any]], line: str) -> None:
    with pytest.raises(BadInput, match=f"^{line}"):
        read_cells(candidates)


def test_with_several_draws_the_interval_is_students_over_the_draws() -> None:
    accuracies = [0.80, 0.84, 0.85]

    (found,) = points([Cell("full", 40, seed, accuracy, 500) for seed, accuracy in enumerate(accuracies)], 0.9)

    low, high = stats.t.interval(0.9, 2, loc=np.mean(accuracies), scale=stats.sem(accuracies))
    assert (found.accuracy, found.low, found.high) == pytest.approx((np.mean(accuracies), low, high))
    assert found.draws == 3


def test_with_one_draw_it_is_wilsons_over_the_test_rows() -> None:
    (found,) = points([Cell("full", 40, 0, 0.8, 500)], 0.95)

    z, p, n = 1.959963985, 0.8, 500
    middle, reach = (p + z * z / 2 / n) / (1 + z * z / n), z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    assert (found.low, found.high) == pytest.approx((middle - reach, middle + reach))


def test_the_best_method_with_most_rows_comes_first_and_each_by_rows() -> None:
    cells = [Cell(method, rows, 0, accuracy, 500) for method, rows, accuracy in [("a", 80, 0.7), ("b", 80, 0.8), ("b", 8, 0.2)]]

    assert [(p.method, p.train_rows) for p in points(cells, 0.95)] == [("b", 8), ("b", 80), ("a", 80)]


def test_the_table_has_accuracies_and_the_labels_that_each_takes_to_reach_the_best() -> None:
    lines = table(CURVES).splitlines()

    assert lines[0] == "| accuracy with so many labels | 40 | 160 |"
    assert lines[3] == "| linear_probe | 0.690 [0.680, 0.700] | 0.750 [0.740, 0.760] |"
    assert lines[7] == "| labels to reach the best with so many | 40 | 160 |"
    assert lines[9:] == [
        "| full | 40 | 160 |",
        "| linear_probe | 160 | more than 160 |",
        f"| {WORDS} | more than 160 | more than 160 |",
    ]


def test_a_missing_cell_stays_empty() -> None:
    assert "| linear_probe |  | 0.750" in table([p for p in CURVES if (p.method, p.train_rows) != ("linear_probe", 40)])


def test_the_sentences_say_who_is_best_who_is_near_and_who_reaches_it_when() -> None:
    assert sentences(CURVES) == [
        "With 40 labels full is best, 0.700 [0.690, 0.710]; the intervals of linear_probe overlap with its own. "
        f"For that, linear_probe took 160; {WORDS} took more than 160.",
        "With 160 labels full is best, 0.800 [0.790, 0.810].",
    ]
    assert best(CURVES, 160).method == "full"


def test_the_picture_shows_each_trained_method_in_a_colour_of_its_own(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(tmp_path / "curves.png", CURVES, "500 test rows", 0.95)
        draw_curves(tmp_path / "full.png", CURVES[:2], "500 test rows", 0.95)

    def shows(name: str, colour: tuple[int, int, int]) -> bool:
        pixels = imread(tmp_path / name)[..., :3]
        return bool(np.any(np.all(np.isclose(pixels, np.array(colour) / 255, atol=0.01), axis=2)))

    blue, orange = (0, 114, 178), (230, 159, 0)
    assert [shows("curves.png", blue), shows("curves.png", orange)] == [True, True]
    assert [shows("full.png", blue), shows("full.png", orange)] == [True, False]


@pytest.mark.parametrize("methods", [1, 12])
def test_any_number_of_methods_and_one_number_of_labels_is_drawn_too(tmp_path, methods: int) -> None:
    draw_curves(tmp_path / "curves.png", [point(f"method ${i}", 40, 0.5) for i in range(methods)], "title", 0.95)

    assert imread(tmp_path / "curves.png").shape[1] > 500
