"""Every row once per epoch, in an order that seed and epoch decide; prediction batches of equal padded length."""

import random

import pytest

from learning.tiny_model import make_rows, write_base
from transfer_learning.blocks.base_model import load_base
from transfer_learning.blocks.batching import epoch_batches, length_batches, padded, tokenize


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 8), (7, 8), (100, 8), (1000, 16)])
def test_every_row_comes_once_in_every_epoch(rows: int, batch_size: int) -> None:
    lengths = [random.Random(0).randint(3, 60) for _ in range(rows)]

    for epoch in range(3):
        batches = epoch_batches(lengths, batch_size, seed=5, epoch=epoch)

        assert sorted(row for batch in batches for row in batch) == list(range(rows))
        assert all(len(batch) <= batch_size for batch in batches)
        assert len(batches) == -(-rows // batch_size)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = list(range(3, 103))

    first = epoch_batches(lengths, 8, seed=1, epoch=2)

    assert epoch_batches(lengths, 8, seed=1, epoch=2) == first
    assert epoch_batches(lengths, 8, seed=1, epoch=3) != first
    assert epoch_batches(lengths, 8, seed=2, epoch=2) != first


def test_rows_of_like_length_train_together() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(3, 120) for _ in range(2000)]

    batches = epoch_batches(lengths, 16, seed=0, epoch=0)

    tokens = sum(lengths)
    spent = sum(padded(max(lengths[row] for row in batch)) * len(batch) for batch in batches)
    assert spent < 1.15 * tokens


def test_prediction_batches_hold_rows_of_one_padded_length_within_the_budget() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(1, 90) for _ in range(300)]

    batches = length_batches(lengths, token_budget=256)

    assert sorted(row for batch in batches for row in batch) == list(range(300))
    for batch in batches:
        (length,) = {padded(lengths[row]) for row in batch}
        assert length * len(batch) <= 256


def test_a_row_longer_than_the_budget_stands_alone() -> None:
    assert length_batches([600, 600], token_budget=64) == [[0], [1]]


def test_a_batch_is_padded_to_a_multiple_of_eight_with_its_mask(tmp_path) -> None:
    base = load_base(write_base(tmp_path / "base"), ["a", "b"], "mean", seed=0)
    texts = ["goal " * 7, "the bank"]

    batch = tokenize(base.tokenizer, texts, ["a match", "cup"], 48, segments=True).batch([0, 1])

    assert batch["input_ids"].shape == (2, 16)
    assert batch["attention_mask"].sum(dim=1).tolist() == [12, 6]
    assert batch["token_type_ids"][1].tolist() == [0, 0, 0, 0, 1, 1, *[0] * 10]


def test_long_texts_are_cut_with_their_special_tokens(tmp_path) -> None:
    base = load_base(write_base(tmp_path / "base"), ["a", "b"], "mean", seed=0)

    tokens = tokenize(base.tokenizer, [text for text, _ in make_rows(20)], None, 6, segments=True)

    assert max(tokens.lengths) == 6
    assert all(tokens.ids[end - 1] == base.tokenizer.sep_token_id for end in tokens.starts[1:])
