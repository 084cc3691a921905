"""Language models of a few thousand weights, with packed blocks of random tokens for them."""

import random
from pathlib import Path
from typing import Any

import torch

from learning.tiny_model import write_base
from transfer_learning.blocks.language.model import LanguageModel, from_base
from transfer_learning.blocks.language.objectives import LanguageExamples, frame_of, masked, next_token, vocabulary_of
from transfer_learning.blocks.language.packing import Blocks, pack
from transfer_learning.blocks.train_loop import Trainable, in_proportion

MASKED = ("albert", "bert", "distilbert", "electra", "roberta")
KINDS = (*MASKED, "gpt2")
LENGTH = 40


def load(folder: Path, kind: str, sentences: str | None = None, objective: str | None = None) -> LanguageModel:
    """Write and load a tiny language model, without dropout."""
    base = write_base(folder / kind, kind)
    language = from_base(base, objective or ("causal_lm" if kind == "gpt2" else "masked_lm"), 0, sentences)
    language.model.eval()
    return language


def blocks_for(language: LanguageModel, documents: int = 24, longest: int = 30) -> Blocks:
    """Return blocks that hold several documents of random words each."""
    chance = random.Random(5)
    known = range(5, len(language.tokenizer))
    drawn = [[chance.choice(known) for _ in range(chance.randint(3, longest))] for _ in range(documents)]
    return pack(drawn, LENGTH, frame_of(language))


def examples_for(language: LanguageModel, blocks: Blocks, **options: Any) -> LanguageExamples:
    """Return blocks as the train loop takes them, in fp32."""
    draw = next_token(blocks) if language.causal else masked(blocks, vocabulary_of(language.tokenizer), 0.15, 3)
    return LanguageExamples(language, blocks, options.get("draw", draw), "cpu", "fp32")


def loss_of(examples: Trainable, rows: list[int], batch: list[int] | None = None) -> torch.Tensor:
    """Return the share of some rows in the loss of an effective batch; None is these rows alone."""
    weights = examples.weights(batch or rows)
    return in_proportion(examples.losses(rows), weights) / weights[0]
