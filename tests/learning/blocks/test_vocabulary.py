"""Training the used words alone is training the whole table."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from learning.stages.fine_tuning import Job
from transfer_learning.blocks import vocabulary
from transfer_learning.blocks.batching import Tokens
from transfer_learning.blocks.vocabulary import keep_used


def tokens(*ids: int, pad: int = 0) -> Tokens:
    return Tokens(np.array(ids, dtype=np.int32), None, np.array([0, len(ids)]), pad)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_rows_keep_their_words_under_new_numbers() -> None:
    embedding = nn.Embedding(100, 4)
    rows = tokens(7, 99, 7, 3)
    before = embedding(torch.tensor([7, 99, 7, 3]))

    words = keep_used(embedding, rows)

    assert words is not None
    assert embedding.weight.shape == (4, 4)
    assert torch.equal(embedding(torch.from_numpy(words.renumber(rows).ids).long()), before)


def test_the_whole_table_comes_back_with_what_was_learned() -> None:
    embedding = nn.Embedding(100, 4)
    before = embedding.weight.detach().clone()
    words = keep_used(embedding, tokens(7, 99))
    assert words is not None
    with torch.no_grad():
        embedding.weight += 1

    words.restore(0.5)

    trained = [0, 7, 99]  # padding counts as used
    others = [i for i in range(100) if i not in trained]
    assert torch.equal(embedding.weight[trained], before[trained] + 1)
    assert torch.equal(embedding.weight[others], before[others] * 0.5)


@pytest.mark.parametrize("ids", [tuple(range(60)), (5, 9)])
def test_nothing_is_cut_where_most_words_are_used_or_padding_would_move(ids: tuple[int, ...]) -> None:
    embedding = nn.Embedding(100, 4)

    assert keep_used(embedding, tokens(*ids, pad=1 if len(ids) == 2 else 0)) is None
    assert embedding.weight.shape == (100, 4)


KINDS = ("bert", "roberta", "electra", "albert", "distilbert", "gpt2")
BY_BLOCKS = [(kind, "gradual_unfreeze") for kind in KINDS if kind != "albert"]  # its layers share their weights


@pytest.mark.parametrize(("kind", "strategy"), [*itertools.product(KINDS, ["full", "probe_then_fine_tune"]), *BY_BLOCKS])
def test_training_ends_as_on_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, strategy: str) -> None:
    job = Job(tmp_path, rows=24, validation=9, kind=kind, contrary=True)
    settings: dict[str, Any] = {"strategy": strategy, "epochs": 6, "patience": 2, "weight_decay": 0.3, "precision": "fp32"}
    settings |= {"backbone_lr": 1e-2, "layer_decay": 0.5} if strategy == "gradual_unfreeze" else {}
    monkeypatch.setattr(vocabulary, "MOST_USED", 0.0)
    job.run("whole", **settings)
    monkeypatch.setattr(vocabulary, "MOST_USED", 1.0)
    job.run("used", **settings)

    whole, used = (weights(tmp_path / name / "model") for name in ("whole", "used"))

    assert whole.keys() == used.keys()
    assert all(torch.allclose(whole[name], used[name], atol=2e-5) for name in whole)


@pytest.mark.parametrize("settings", [{"strategy": "top_layers", "unfreeze_blocks": 1}, {"strategy": "lora"}])
def test_words_that_do_not_train_are_not_shrunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(vocabulary, "MOST_USED", 1.0)
    job = Job(tmp_path, rows=3)

    job.run(epochs=2, weight_decay=0.3, **settings)

    words = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(weights(tmp_path / "out" / "model")[words], weights(tmp_path / "base")[words.removeprefix("bert.")])
