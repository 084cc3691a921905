"""The comparison of several verdicts, from files to files."""

import json
from pathlib import Path

import pytest

from transfer_learning.errors import BadInput
from transfer_learning.specs import CompareSpec, FineTuneSpec
from transfer_learning.stage import Run
from transfer_learning.stages.compare import compare


def write_verdict(folder: Path, version: int, accuracy: float, **spec: object) -> None:
    folder.mkdir(exist_ok=True)
    settings = FineTuneSpec(**spec)  # type: ignore[arg-type]
    facts = {"spec": settings.to_dict(), "base": {"uri": "hf://a"}, "metrics": {"rows": settings.train_rows}}
    metrics = {"candidate": {"accuracy": accuracy, "rows": 100}, "baselines": {"tfidf": {"accuracy": 0.4}, "majority": None}}
    body = {"version": version, "facts": facts, "verdict": {"test": {"digest": "a"}, "metrics": metrics}}
    (folder / f"{version:06d}.json").write_text(json.dumps(body))


def test_table_picture_and_figures_are_written(tmp_path: Path) -> None:
    for version, (rows, seed, accuracy) in enumerate([(8, 0, 0.5), (8, 1, 0.625), (40, 0, 0.75), (40, 1, 0.875)], start=1):
        write_verdict(tmp_path / "verdicts", version, accuracy, train_rows=rows, seed=seed)
    (tmp_path / "out").mkdir()

    metrics = compare(
        CompareSpec(confidence=0.8), {"verdicts": [tmp_path / "verdicts"]}, tmp_path / "out", Run(facts={"model": "news"})
    )

    assert metrics == {"candidates": 4, "methods": 2, "test_rows": 100}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.json", "curves.png", "table.md"]
    body = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert body["versions"] == [1, 2, 3, 4]
    assert [(row["method"], row["train_rows"], row["accuracy"]) for row in body["rows"][:2]] == [
        ("full", 8, 0.5625),
        ("full", 40, 0.8125),
    ]
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.startswith("# news: accuracy on 100 test rows\n")
    assert all(sentence in text for sentence in body["sentences"])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_that_is_none_is_one_clear_line(confidence: float) -> None:
    with pytest.raises(BadInput, match=r"^BAD_SETTING CompareSpec.confidence must lie between 0 and 1"):
        CompareSpec(confidence=confidence)
