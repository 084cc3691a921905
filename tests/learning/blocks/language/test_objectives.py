"""What is masked and what is predicted, held against the papers' figures and against the losses of ``transformers``."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from learning.tiny_language import KINDS, MASKED, blocks_for, examples_for, load, loss_of
from transfer_learning.blocks.language.model import LanguageModel
from transfer_learning.blocks.language.objectives import (
    LanguageExamples,
    PairedExamples,
    Vocabulary,
    frame_of,
    learnable,
    masked,
    next_token,
    vocabulary_of,
)
from transfer_learning.blocks.language.packing import Blocks, Frame, pack
from transfer_learning.blocks.language.sentences import pair_up
from transfer_learning.errors import BadInput

TOKENS, SPECIAL, LENGTH = 1000, 5, 128
VOCABULARY = Vocabulary(mask=4, special=np.arange(TOKENS) < SPECIAL)


@pytest.fixture(scope="module")
def many() -> Blocks:
    """400 blocks of random tokens, one in twenty of them special."""
    chance = np.random.default_rng(0)
    ids = np.where(chance.random((400, LENGTH)) < 0.05, 1, chance.integers(SPECIAL, TOKENS, (400, LENGTH)))
    return Blocks(ids.astype(np.int32), np.ones((400, LENGTH), dtype=np.int32), 400)


def test_15_percent_are_chosen_and_become_mask_random_or_themselves_in_80_10_10(many: Blocks) -> None:
    drawn = masked(many, VOCABULARY, 0.15, seed=1)(range(400), 0)

    candidates = int((many.ids >= SPECIAL).sum())
    count = len(drawn.places)
    now, before = drawn.ids.reshape(-1)[drawn.places], many.ids.reshape(-1)[drawn.places]
    # A random token is the original once in 995 times.
    shares = np.array([(now == 4).mean(), ((now != 4) & (now != before)).mean(), (now == before).mean()])
    within = 4 * np.sqrt(0.8 * 0.2 / count)
    assert count / candidates == pytest.approx(0.15, abs=4 * np.sqrt(0.15 * 0.85 / candidates))
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=within)


def test_special_tokens_are_never_chosen_and_never_drawn(many: Blocks) -> None:
    drawn = masked(many, VOCABULARY, 0.5, seed=1)(range(400), 0)

    assert (many.ids.reshape(-1)[drawn.places] >= SPECIAL).all()
    assert (drawn.targets >= SPECIAL).all()
    now = drawn.ids.reshape(-1)[drawn.places]
    assert set(now[now < SPECIAL]) == {4}


def test_random_tokens_come_from_the_whole_vocabulary(many: Blocks) -> None:
    draw = masked(many, VOCABULARY, 0.15, seed=1)

    drawn = [draw(range(400), epoch) for epoch in range(3)]
    now = np.concatenate([one.ids.reshape(-1)[one.places] for one in drawn])
    before = np.concatenate([many.ids.reshape(-1)[one.places] for one in drawn])
    drawn_at_random = now[(now != 4) & (now != before)]
    assert drawn_at_random.mean() == pytest.approx((TOKENS + SPECIAL) / 2, rel=0.05)
    assert (drawn_at_random < 100).sum() > 0
    assert (drawn_at_random >= 900).sum() > 0


def test_what_is_not_chosen_stays_as_it_is(many: Blocks) -> None:
    drawn = masked(many, VOCABULARY, 0.15, seed=1)(range(400), 0)

    untouched = np.ones(many.ids.size, dtype=bool)
    untouched[drawn.places] = False
    assert (drawn.ids.reshape(-1)[untouched] == many.ids.reshape(-1)[untouched]).all()
    assert (drawn.targets == many.ids.reshape(-1)[drawn.places]).all()


def test_a_choice_follows_from_seed_epoch_and_block_alone(many: Blocks) -> None:
    draw = masked(many, VOCABULARY, 0.15, seed=1)
    whole, alone = draw([7, 3, 9], 2), masked(many, VOCABULARY, 0.15, seed=1)([3], 2)

    assert (whole.ids[1] == alone.ids[0]).all()
    assert (whole.places[(whole.places >= LENGTH) & (whole.places < 2 * LENGTH)] - LENGTH == alone.places).all()
    assert not (draw([3], 1).ids == alone.ids).all()
    assert not (masked(many, VOCABULARY, 0.15, seed=2)([3], 2).ids == alone.ids).all()


def test_even_a_block_of_one_word_has_a_choice() -> None:
    blocks = pack([[9] * 1], 8, Frame(2, 3, 0, True))

    assert len(masked(blocks, VOCABULARY, 0.15, seed=0)([0], 0).places) == 1


def test_the_next_token_is_predicted_within_a_piece_alone() -> None:
    blocks = pack([[10, 11, 12], [20, 21]], 13, Frame(1, 1, 1, False))

    drawn = next_token(blocks)([0], 0)

    assert blocks.ids[0].tolist() == [1, 10, 11, 12, 1, 1, 20, 21, 1, 1, 1, 1, 1]
    assert drawn.places.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert drawn.targets.tolist() == [10, 11, 12, 1, 20, 21, 1]


@pytest.mark.parametrize("kind", MASKED)
def test_the_masked_loss_is_that_of_transformers_on_each_document_alone(tmp_path: Path, kind: str) -> None:
    language = load(tmp_path, kind)
    blocks = blocks_for(language)
    examples = examples_for(language, blocks)
    rows = list(range(len(blocks)))
    drawn = examples.draw(rows, 0)
    labels = np.full(blocks.ids.size, -100)
    labels[drawn.places] = drawn.targets

    total = 0.0
    for ids, wanted in documents(blocks, drawn.ids, labels.reshape(blocks.ids.shape)):
        if count := int((wanted >= 0).sum()):
            total += count * language.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=wanted).loss.item()

    assert blocks.pieces.max() > 1
    assert examples.weights(rows) == (len(drawn.targets),)
    assert examples.losses(rows)[0].item() == pytest.approx(total, rel=1e-5)


def test_the_causal_loss_is_that_of_transformers_on_each_document_alone(tmp_path: Path) -> None:
    language = load(tmp_path, "gpt2")
    blocks = blocks_for(language)
    examples = examples_for(language, blocks)
    rows = list(range(len(blocks)))

    total = count = 0
    for ids, wanted in documents(blocks, blocks.ids, blocks.ids):
        total += (ids.shape[1] - 1) * language.model(input_ids=ids, labels=wanted).loss.item()
        count += ids.shape[1] - 1

    assert blocks.pieces.max() > 1
    assert examples.weights(rows) == (count,)
    assert examples.losses(rows)[0].item() == pytest.approx(total, rel=1e-5)


def documents(blocks: Blocks, ids: np.ndarray, labels: np.ndarray):
    """Yield tokens and labels of each piece as a batch of its own."""
    for row, wanted, numbers in zip(ids, labels, blocks.pieces, strict=True):
        for number in range(1, numbers.max() + 1):
            at = numbers == number
            yield torch.from_numpy(row[at].astype(np.int64))[None], torch.from_numpy(wanted[at].astype(np.int64))[None]


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_predicted_is_decoded(tmp_path: Path, kind: str) -> None:
    language = load(tmp_path, kind)
    examples = examples_for(language, blocks_for(language))
    decoded: list[torch.Size] = []
    language.model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, output: decoded.append(output.shape))

    examples.losses([0, 1])

    assert decoded == [(int(examples.weights([0, 1])[0]), len(language.tokenizer))]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_blocks_one_by_one_give_the_gradient_of_all_at_once(tmp_path: Path, kind: str) -> None:
    language = load(tmp_path, kind)
    examples = examples_for(language, blocks_for(language))
    rows = list(range(5))

    whole = gradient(examples, [rows])
    parts = gradient(examples, [[row] for row in rows])

    assert all(torch.allclose(whole[name], parts[name], rtol=0, atol=1e-6) for name in whole)


def gradient(examples: LanguageExamples, batches: list[list[int]]) -> dict[str, torch.Tensor]:
    model = examples.language.model
    model.zero_grad()
    every = [row for rows in batches for row in rows]
    for rows in batches:
        loss_of(examples, rows, every).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def paired_examples(language: LanguageModel, kind: str) -> PairedExamples:
    chance = random.Random(3)
    given = [[[chance.randint(5, 24) for _ in range(chance.randint(2, 6))] for _ in range(6)] for _ in range(8)]
    blocks = pair_up(given, 24, frame_of(language), kind, seed=0)
    return PairedExamples(language, blocks, masked(blocks, vocabulary_of(language.tokenizer), 0.15, 3), "cpu", "fp32")


@pytest.mark.parametrize(("kind", "sentences"), [("bert", "next_sentence"), ("albert", "sentence_order")])
def test_the_loss_of_pairs_is_that_of_transformers(tmp_path: Path, kind: str, sentences: str) -> None:
    language = load(tmp_path, kind, sentences)
    examples = paired_examples(language, sentences)
    blocks, rows = examples.blocks, list(range(len(examples.blocks)))
    drawn = examples.draw(rows, 0)
    labels = np.full(blocks.ids.size, -100)
    labels[drawn.places] = drawn.targets
    name = "next_sentence_label" if kind == "bert" else "sentence_order_label"

    expected = language.model(
        input_ids=torch.from_numpy(drawn.ids).long(),
        attention_mask=torch.from_numpy(blocks.pieces).long(),
        token_type_ids=torch.from_numpy(blocks.segments).long(),
        labels=torch.from_numpy(labels.reshape(blocks.ids.shape)),
        **{name: torch.from_numpy(blocks.labels)},
    ).loss

    assert set(blocks.labels) == {0, 1}
    assert loss_of(examples, rows).item() == pytest.approx(expected.item(), rel=1e-5)
    assert examples.evaluate(lambda: None)["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_pairs_one_by_one_give_the_gradient_of_all_at_once(tmp_path: Path) -> None:
    examples = paired_examples(load(tmp_path, "bert", "next_sentence"), "next_sentence")
    rows = list(range(5))

    whole = gradient(examples, [rows])
    parts = gradient(examples, [[row] for row in rows])

    assert all(torch.allclose(whole[name], parts[name], rtol=0, atol=1e-6) for name in whole)


def test_perplexity_is_the_exponential_of_the_mean_loss(tmp_path: Path) -> None:
    language = load(tmp_path, "bert")
    examples = examples_for(language, blocks_for(language))
    rows = list(range(len(examples.blocks)))

    found = examples.evaluate(lambda: None)

    assert found["loss"] == pytest.approx(loss_of(examples, rows).item(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))


def test_a_corpus_of_unknown_words_is_one_clear_line(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(load(tmp_path, "bert").tokenizer)
    unknown = pack([[1] * 40], 16, Frame(2, 3, 0, True))

    with pytest.raises(BadInput, match="^TOKENIZER every token of the corpus is unknown to the tokenizer — use a base model"):
        learnable(unknown, vocabulary)
