"""Tokenizers trained from a corpus: WordPiece for BERT and its likes, byte-level BPE for RoBERTa and GPT-2, Unigram for ALBERT.

The library numbers some tokens in the order of a hash table, which differs from one process to the next. So the alphabet is
handed to it in a fixed order, and what Unigram finds is put in order here: the same corpus gives the same tokenizer.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from transfer_learning.blocks.language.corpus import pieces
from transfer_learning.errors import BadInput, one_line
from transfer_learning.specs.architectures import FAMILIES

FEWEST = 2
"""A token that merges two others stands at least so often in the corpus."""

ALPHABET_SHARE = 4
"""At most one in so many tokens is a character at the start of a word, and as many are one within it."""

PENALTY = 1e-4
"""By which the library tells rare characters apart, in the order of a hash table."""

SCORE_DIGITS = 4
"""Of Unigram's log-probabilities: the last digits depend on the order in which the library adds them up."""


@dataclasses.dataclass(frozen=True, slots=True)
class Special:
    """The special tokens of one architecture, in the order of their numbers, and their roles."""

    tokens: tuple[str, ...]
    roles: dict[str, str]
    single: str = ""
    """How one text is framed; empty frames nothing."""
    pair: str = ""
    swallows_space: bool = False
    """A mask takes the space before it along, as the words it stands for do."""


BRACKETS = Special(
    ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "[CLS] $A [SEP]",
    "[CLS] $A [SEP] $B:1 [SEP]:1",
)

SPECIAL: dict[str, Special] = {
    "bert": BRACKETS,
    "distilbert": BRACKETS,
    "electra": BRACKETS,
    "albert": dataclasses.replace(
        BRACKETS,
        tokens=("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        roles=BRACKETS.roles | {"pad": "<pad>", "unk": "<unk>"},
        swallows_space=True,
    ),
    "roberta": Special(
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"},
        "<s> $A </s>",
        "<s> $A </s> </s> $B </s>",
        swallows_space=True,
    ),
    "gpt2": Special(("<|endoftext|>",), dict.fromkeys(("bos", "eos", "unk", "pad"), "<|endoftext|>")),
}


def train_tokenizer(
    architecture: str, documents: Callable[[], Iterable[str]], vocab_size: int | None, poll: Callable[[], None] = lambda: None
) -> Tokenizer:
    """Train the architecture's kind of tokenizer.

    Args:
        architecture: its ``model_type``.
        documents: yields the corpus from the start, at each call.
        vocab_size: most tokens; None is the number of the architecture's paper. A small corpus gives fewer.
        poll: called between documents; what it raises ends the training.

    Raises:
        BadInput: a corpus that no tokenizer can be trained from.
    """
    special, family = SPECIAL[architecture], FAMILIES[architecture]

    def texts() -> Iterator[str]:
        for document in documents():
            poll()
            yield from pieces(document)

    try:
        inner = KINDS[family.tokenizer](texts, special, vocab_size or family.vocab_size)
    except ValueError as error:
        what = f"none can be trained from this corpus: {one_line(str(error))[:200]}"
        raise BadInput("TOKENIZER", what, "add text, or change vocab_size") from None
    inner.add_special_tokens(list(special.tokens))
    if special.single:
        named = [(token, inner.token_to_id(token)) for token in special.tokens]
        inner.post_processor = processors.TemplateProcessing(single=special.single, pair=special.pair, special_tokens=named)
    return inner


def wrapped(architecture: str, inner: Tokenizer, max_length: int) -> Any:
    """Return a trained tokenizer as ``transformers`` takes it, for inputs of up to ``max_length`` tokens."""
    special = SPECIAL[architecture]
    roles: dict[str, Any] = {f"{role}_token": token for role, token in special.roles.items()}
    if special.swallows_space:
        roles["mask_token"] = AddedToken(special.roles["mask"], lstrip=True, special=True)
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=max_length, **roles)  # type: ignore[no-untyped-call]


def _wordpiece(texts: Callable[[], Iterator[str]], special: Special, vocab_size: int) -> Tokenizer:
    """WordPiece (Schuster & Nakajima 2012), uncased, on words cut as BERT cuts them."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    seen = Counter[str]()
    for text in texts():
        seen.update(normalizer.normalize_str(text))
    ordered = sorted((letter for letter in seen if not letter.isspace()), key=lambda letter: (-seen[letter], letter))
    letters = sorted(ordered[: max(1, vocab_size // ALPHABET_SHARE)])
    learner = Tokenizer(models.WordPiece(unk_token=special.roles["unk"]))
    learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=FEWEST,
        show_progress=False,
        special_tokens=[*special.tokens, *(f"##{letter}" for letter in letters)],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
    )
    learner.train_from_iterator(texts(), trainer)
    inner = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token=special.roles["unk"]))
    inner.normalizer, inner.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def _byte_bpe(texts: Callable[[], Iterator[str]], special: Special, vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Radford et al. 2019): no text is unknown to it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=FEWEST,
        show_progress=False,
        special_tokens=list(special.tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    inner.train_from_iterator(texts(), trainer)
    return inner


def _unigram(texts: Callable[[], Iterator[str]], special: Special, vocab_size: int) -> Tokenizer:
    """Unigram (Kudo 2018), uncased, with spaces as characters of the words behind them."""
    learner = Tokenizer(models.Unigram())
    learner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, show_progress=False, special_tokens=list(special.tokens), unk_token=special.roles["unk"]
    )
    learner.train_from_iterator(texts(), trainer)
    learned = _in_order(
        {piece: score for piece, score in json.loads(learner.to_str())["model"]["vocab"] if piece not in special.tokens}
    )
    vocabulary = [*((token, 0.0) for token in special.tokens), *learned]
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=special.tokens.index(special.roles["unk"])))
    inner.normalizer, inner.pre_tokenizer = learner.normalizer, pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return inner


def _in_order(learned: dict[str, float]) -> list[tuple[str, float]]:
    """Return what Unigram learned, best pieces first, without what depends on the order in which the library met them.

    Characters that are no pieces on their own get the lowest score, each a little more than the one before it.
    """
    letters = sorted(piece for piece in learned if len(piece) == 1)
    lowest = min(learned.values(), default=0.0) + PENALTY * len(letters)
    rare = [letter for letter in letters if learned[letter] <= lowest]
    scores = learned | dict(zip(rare, sorted(learned[letter] for letter in rare), strict=True))
    rounded = {piece: round(score, SCORE_DIGITS) for piece, score in scores.items()}
    return sorted(rounded.items(), key=lambda entry: (-entry[1], entry[0]))


KINDS: dict[str, Callable[[Callable[[], Iterator[str]], Special, int], Tokenizer]] = {
    "wordpiece": _wordpiece,
    "byte_bpe": _byte_bpe,
    "unigram": _unigram,
}
