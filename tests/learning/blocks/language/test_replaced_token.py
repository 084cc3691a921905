"""ELECTRA: labels against the generator's samples, the loss against that of ``transformers``, and what the two models share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from learning.tiny_language import blocks_for, load, loss_of
from transfer_learning.blocks.language.model import LanguageModel
from transfer_learning.blocks.language.objectives import masked, vocabulary_of
from transfer_learning.blocks.language.replaced_token import ALL_HIDDEN, ReplacedExamples


@pytest.fixture
def language(tmp_path: Path) -> LanguageModel:
    return load(tmp_path, "electra", objective="replaced_token")


@pytest.fixture
def examples(language: LanguageModel) -> ReplacedExamples:
    blocks = blocks_for(language)
    draw = masked(blocks, vocabulary_of(language.tokenizer), 0.15, 3, ALL_HIDDEN)
    return ReplacedExamples(language, blocks, draw, "cpu", "fp32", seed=3)


def test_every_chosen_token_is_hidden_from_the_generator(examples: ReplacedExamples) -> None:
    drawn = examples.draw([0, 1, 2], 0)

    assert set(drawn.ids.reshape(-1)[drawn.places]) == {examples.language.tokenizer.mask_token_id}


def test_a_token_is_replaced_where_the_sample_is_another_one(examples: ReplacedExamples) -> None:
    rows = list(range(len(examples.blocks)))
    drawn, judged = examples.draw(rows, 0), examples.judge(rows)

    originals, real = examples.blocks.ids, examples.blocks.pieces > 0
    ids = judged.ids.numpy()
    untouched = np.ones(ids.size, dtype=bool)
    untouched[drawn.places] = False
    assert (ids.reshape(-1)[untouched] == originals.reshape(-1)[untouched]).all()
    assert (judged.replaced.numpy() == (ids != originals)[real]).all()
    assert 0 < int(judged.replaced.sum()) <= len(drawn.places)
    assert len(judged.logits) == examples.blocks.tokens


def test_a_sample_that_equals_the_original_counts_as_original(
    examples: ReplacedExamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [0, 1]
    drawn = examples.draw(rows, 0)
    monkeypatch.setattr(examples, "_sample", lambda *_: torch.from_numpy(drawn.targets))

    judged = examples.judge(rows)

    assert len(drawn.targets) > 0
    assert not judged.replaced.any()


def test_the_loss_is_the_generators_of_transformers_and_50_times_the_discriminators(examples: ReplacedExamples) -> None:
    model, rows = examples.language.model, list(range(len(examples.blocks)))
    drawn, judged = examples.draw(rows, 0), examples.judge(rows)
    labels = np.full(examples.blocks.ids.size, -100)
    labels[drawn.places] = drawn.targets
    flags = (judged.ids.numpy() != examples.blocks.ids).astype(np.int64)

    generated = told = 0.0
    for hidden, target, ids, flag, numbers in zip(
        drawn.ids, labels.reshape(flags.shape), judged.ids.numpy(), flags, examples.blocks.pieces, strict=True
    ):
        for number in range(1, numbers.max() + 1):
            hidden_, target_, ids_, flag_ = (
                torch.from_numpy(part[numbers == number].astype(np.int64))[None] for part in (hidden, target, ids, flag)
            )
            if count := int((target_ >= 0).sum()):
                generated += count * model.generator(input_ids=hidden_, labels=target_).loss.item()
            told += ids_.numel() * model(input_ids=ids_, attention_mask=torch.ones_like(ids_), labels=flag_).loss.item()

    expected = generated / len(drawn.targets) + 50 * told / examples.blocks.tokens
    assert loss_of(examples, rows).item() == pytest.approx(expected, rel=1e-5)
    assert examples.evaluate(lambda: None)["loss"] == pytest.approx(expected, rel=1e-5)


def test_samples_come_as_often_as_the_generator_says(examples: ReplacedExamples) -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    drawn = examples.draw([0], 0)
    count = 4000
    many = type(drawn)(drawn.ids, np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64))

    found = torch.bincount(examples._sample(scores.expand(count, 5), [0], many), minlength=5) / count

    assert torch.allclose(found, functional.softmax(scores, dim=0), atol=0.03)


def test_samples_follow_from_seed_epoch_and_block_and_not_from_the_rows_beside(examples: ReplacedExamples) -> None:
    whole, alone, noise = examples.judge([2, 0, 1]), examples.judge([0]), examples._noise(0, 2, 9)
    beside, again = examples._noise(1, 2, 9), examples._noise(0, 2, 9)
    examples.epoch = 1
    later = examples._noise(0, 2, 9)

    assert torch.equal(whole.ids[1], alone.ids[0])
    assert np.array_equal(noise, again)
    assert not np.isclose(noise, beside).any()
    assert not np.isclose(noise, later).any()


def test_blocks_one_by_one_give_the_gradient_of_all_at_once(examples: ReplacedExamples) -> None:
    rows = [0, 1, 2, 3]

    def gradient(batches: list[list[int]]) -> dict[str, torch.Tensor]:
        model = examples.language.model
        model.zero_grad()
        for batch in batches:
            loss_of(examples, batch, rows).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}

    whole, parts = gradient([rows]), gradient([[row] for row in rows])

    assert all(torch.allclose(whole[name], parts[name], rtol=0, atol=1e-5) for name in whole)


def test_embeddings_are_shared_and_no_gradient_goes_through_the_samples(examples: ReplacedExamples) -> None:
    model = examples.language.model
    theirs, ours = model.generator.electra.embeddings, model.electra.embeddings
    judged = examples.judge([0, 1])

    judged.losses().sum().backward()

    own = [parameter.grad for name, parameter in model.named_parameters() if name.startswith("generator.")]
    assert theirs.word_embeddings is ours.word_embeddings
    assert theirs.position_embeddings is ours.position_embeddings
    assert model.generator.generator_lm_head.weight is ours.word_embeddings.weight
    assert own
    assert all(gradient is None for gradient in own)
    assert ours.word_embeddings.weight.grad is not None


def test_the_generator_is_a_fourth_as_wide_and_as_deep(language: LanguageModel) -> None:
    ours, theirs = language.model.config, language.model.generator.config

    assert theirs.hidden_size == ours.hidden_size // 4
    assert theirs.num_hidden_layers == ours.num_hidden_layers
    assert theirs.embedding_size == ours.embedding_size


def test_the_generators_weights_are_not_among_those_of_the_discriminator(language: LanguageModel) -> None:
    names = language.published_parameters()

    assert not any(name.startswith("generator.") for name in names)
    assert any(name.startswith("discriminator_predictions.") for name in names)
