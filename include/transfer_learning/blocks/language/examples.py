"""From documents to what a language model learns from: tokens, in packed blocks or in pairs, and what is predicted in them."""

from __future__ import annotations

import functools

from transfer_learning.blocks import checkpoint
from transfer_learning.blocks.language.corpus import Corpus
from transfer_learning.blocks.language.model import LanguageModel
from transfer_learning.blocks.language.objectives import (
    MASKED,
    RANDOM,
    Draw,
    LanguageExamples,
    PairedExamples,
    frame_of,
    learnable,
    masked,
    next_token,
    vocabulary_of,
)
from transfer_learning.blocks.language.packing import Blocks, pack, token_lists
from transfer_learning.blocks.language.replaced_token import ALL_HIDDEN, ReplacedExamples
from transfer_learning.blocks.language.sentences import pair_up, sentence_lists
from transfer_learning.specs import PretrainSpec
from transfer_learning.stage import Run


def make_examples(spec: PretrainSpec, language: LanguageModel, corpus: Corpus, length: int, run: Run) -> LanguageExamples:
    """Tokenise documents, lay them out as packed blocks or as pairs, and say what is predicted in them.

    Args:
        spec: names the objective, and what is drawn by seed.
        language: on its device.
        corpus: the documents.
        length: tokens of each block.
        run: its numerics are chosen.

    Raises:
        BadInput: documents or a tokenizer that cannot teach this objective.
        Stopped: the job was asked to stop.
    """
    run.progress(phase="tokens", documents=len(corpus))
    tokenizer, frame, poll = language.tokenizer, frame_of(language), functools.partial(checkpoint.end_before_training, run)
    device, precision = str(run.numerics["device"]), str(run.numerics["precision"])
    if spec.sentences is not None:
        pairs = pair_up(sentence_lists(tokenizer, corpus.documents(), poll), length, frame, spec.sentences, spec.seed)
        blocks, draw = _masking(spec, language, pairs)
        return PairedExamples(language, blocks, draw, device, precision)
    blocks = pack(token_lists(tokenizer, corpus.documents(), poll), length, frame)
    if language.causal:
        return LanguageExamples(language, blocks, next_token(blocks), device, precision)
    blocks, draw = _masking(spec, language, blocks)
    if spec.objective == "replaced_token":
        return ReplacedExamples(language, blocks, draw, device, precision, seed=spec.seed)
    return LanguageExamples(language, blocks, draw, device, precision)


def _masking(spec: PretrainSpec, language: LanguageModel, blocks: Blocks) -> tuple[Blocks, Draw]:
    """Return the blocks with a token to mask, and how they are masked."""
    vocabulary = vocabulary_of(language.tokenizer)
    kept = learnable(blocks, vocabulary)
    hidden = ALL_HIDDEN if spec.objective == "replaced_token" else (MASKED, RANDOM)
    return kept, masked(kept, vocabulary, spec.masked_share, spec.seed, hidden)
