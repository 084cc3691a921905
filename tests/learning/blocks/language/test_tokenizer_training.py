"""Tokenizers from a corpus: the same one each time, with the special tokens of the architecture."""

import random
from collections.abc import Iterable

import pytest
from tokenizers import Tokenizer

from transfer_learning.blocks.language.tokenizer_training import SPECIAL, train_tokenizer, wrapped
from transfer_learning.errors import Stopped
from transfer_learning.specs.architectures import FAMILIES

TEXT = [
    "The shares of the bank rose sharply after the market had opened.",
    "The bank's profit fell, and so did the price of its shares!",
    "A late goal decided the match between the two teams of the league.",
    "Le café était fermé; der Zug nach München fährt später.",
    "Банк сообщил о прибыли, а матч закончился вничью.",
    "株価は上昇した。銀行の利益は減少した。",
]


def corpus() -> Iterable[str]:
    chance = random.Random(0)
    return [" ".join(chance.choices(TEXT, k=3)) for _ in range(60)]


def trained(kind: str, size: int = 400) -> Tokenizer:
    return train_tokenizer(kind, corpus, size)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_same_corpus_gives_the_same_tokenizer(kind: str) -> None:
    first, *others = [trained(kind).to_str() for _ in range(4)]

    assert all(other == first for other in others)


@pytest.mark.parametrize("kind", FAMILIES)
def test_special_tokens_have_the_architectures_numbers(kind: str) -> None:
    tokenizer = wrapped(kind, trained(kind), 64)

    assert tokenizer.convert_tokens_to_ids(list(SPECIAL[kind].tokens)) == list(range(len(SPECIAL[kind].tokens)))
    assert tokenizer.pad_token_id is not None
    assert (tokenizer.mask_token_id is None) == (kind == "gpt2")
    assert tokenizer.model_max_length == 64


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_word_of_the_corpus_is_unknown(kind: str) -> None:
    tokenizer = wrapped(kind, trained(kind, 600), 64)

    found = [number for text in TEXT for number in tokenizer(text, add_special_tokens=False)["input_ids"]]

    assert tokenizer.unk_token_id not in found
    assert len(tokenizer) <= 600


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_byte_level_tokens_are_the_text_itself_whatever_its_alphabet(kind: str) -> None:
    tokenizer = wrapped(kind, trained(kind), 64)

    for text in (*TEXT, "ไม่รู้จัก 🙂 ħ"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("kind", FAMILIES)
def test_frequent_words_become_tokens(kind: str) -> None:
    tokenizer = wrapped(kind, trained(kind, 600), 64)

    assert tokenizer.tokenize("it rose, the bank")[-1].strip("Ġ▁") == "bank"


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "gpt2"])
def test_one_text_and_a_pair_are_framed(kind: str) -> None:
    tokenizer = wrapped(kind, trained(kind), 64)

    single, pair = tokenizer("bank")["input_ids"], tokenizer("bank", "goal")["input_ids"]

    assert (single[0], single[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert pair.count(tokenizer.sep_token_id) == (3 if kind == "roberta" else 2)


def test_it_can_be_stopped() -> None:
    def stop() -> None:
        raise Stopped("STOPPED")

    with pytest.raises(Stopped):
        train_tokenizer("bert", corpus, 400, stop)
