"""Ranking base models: the one whose features tell the classes comes first, whatever its width and its place in the list."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from learning.real_news import BASE, headlines
from learning.tiny_model import CONFIGS, make_rows, write_base, write_rows, write_tokenizer
from transfer_learning.errors import BadInput
from transfer_learning.specs import RankSpec
from transfer_learning.stage import Run
from transfer_learning.stages.rank import rank


def ranking(folder: Path, rows: list[tuple[str, str]], *bases: Path, **settings: Any) -> list[dict[str, Any]]:
    (folder / "out").mkdir(parents=True)
    inputs = {"train": [write_rows(folder / "train", rows)], "base": list(bases)}
    rank(RankSpec(**settings), inputs, folder / "out", Run(threads=1))
    return json.loads((folder / "out" / "ranking.json").read_text())


def write_blind(folder: Path) -> Path:
    """Write a base that sees nothing but the length of a text: every word has the same embedding."""
    folder.mkdir()
    write_tokenizer(folder)
    torch.manual_seed(7)
    model = AutoModel.from_config(CONFIGS["bert"])
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(0.1)
    model.save_pretrained(folder)
    return folder


def test_the_base_that_tells_the_classes_comes_first_wherever_it_stands(tmp_path: Path) -> None:
    seeing, blind = write_base(tmp_path / "seeing"), write_blind(tmp_path / "blind")

    first = ranking(tmp_path / "first", make_rows(90), seeing, blind)
    second = ranking(tmp_path / "second", make_rows(90), blind, seeing)

    assert [entry["place"] for entry in first] == [1, 2]
    assert [entry["place"] for entry in second] == [2, 1]
    assert [entry["layers"] for entry in first] == [entry["layers"] for entry in reversed(second)]


def test_every_layer_is_told_and_the_best_is_a_layer_that_a_model_can_end_at(tmp_path: Path) -> None:
    (entry,) = ranking(tmp_path / "ranked", make_rows(90), write_base(tmp_path / "base"))

    layers = entry["layers"]
    assert [layer["number"] for layer in layers] == [0, 1, 2, 3]
    assert all(0 <= layer["probe"]["mean"] <= 1 and layer["probe"]["error"] > 0 for layer in layers)
    assert entry["best_layer"] == max(layers[1:], key=lambda layer: layer["logme"])["number"]
    assert entry["sampled"] == 90
    assert entry["tokens"] == {"unknown": 0.0, "broken": 0.0}


def test_rows_of_one_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ONE_CLASS"):
        ranking(tmp_path / "ranked", [("the goal", "sport"), ("a goal", "sport")], write_base(tmp_path / "base"))


def test_a_pretrained_model_ranks_above_its_own_random_weights_and_a_tiny_one(tmp_path: Path) -> None:
    tiny, real = ranking(tmp_path / "ranked", headlines()[:200], write_base(tmp_path / "tiny"), BASE, precision="fp32")

    assert (real["place"], tiny["place"]) == (1, 2)
    best = real["layers"][real["best_layer"]]["probe"]
    assert best["mean"] - real["untrained"]["mean"] > 4 * best["error"]
