"""Architectures that can be trained from scratch, by name and size. Torch-free, so that a typo fails when a DAG is parsed."""

from __future__ import annotations

import dataclasses

OBJECTIVES: dict[str, tuple[str, ...]] = {
    "masked_lm": ("bert", "roberta", "distilbert", "electra", "albert"),
    "causal_lm": ("gpt2",),
    "replaced_token": ("electra",),
    "supervised": ("bert", "roberta", "distilbert", "electra", "albert", "gpt2"),
}
"""Which architectures learn an objective: a masked token is found from both sides, the next one from the left alone, only ELECTRA
has a head that tells replaced tokens, and labels are learned by those that can be fine-tuned as classifiers."""

PAIRED: tuple[str, ...] = ("bert", "albert")
"""Which architectures also learn how two segments stand to each other: those with a head for it in ``transformers``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """Layers, width and attention heads; feed-forward layers are four times as wide in every one of these papers."""

    layers: int
    hidden_size: int
    heads: int
    embedding_size: int | None = None
    """Width of the token embeddings where it is not that of the layers (ALBERT, ELECTRA)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One architecture's sizes, and what they have in common."""

    sizes: dict[str, Size]
    vocab_size: int
    """Tokens in the published models."""
    positions: int
    """Longest input in tokens."""
    tokenizer: str
    """``wordpiece``, ``byte_bpe`` or ``unigram``."""


TINY = Size(2, 128, 2)

FAMILIES: dict[str, Family] = {
    # Devlin et al. 2019; the small ones are those of Turc et al. 2019.
    "bert": Family(
        {
            "tiny": TINY,
            "mini": Size(4, 256, 4),
            "small": Size(4, 512, 8),
            "medium": Size(8, 512, 8),
            "base": Size(12, 768, 12),
            "large": Size(24, 1024, 16),
        },
        30522,
        512,
        "wordpiece",
    ),
    # Liu et al. 2019
    "roberta": Family({"tiny": TINY, "base": Size(12, 768, 12), "large": Size(24, 1024, 16)}, 50265, 512, "byte_bpe"),
    # Sanh et al. 2019: every second layer of BERT
    "distilbert": Family({"tiny": TINY, "base": Size(6, 768, 12)}, 30522, 512, "wordpiece"),
    # Clark et al. 2020
    "electra": Family(
        {
            "tiny": Size(2, 128, 2, 64),
            "small": Size(12, 256, 4, 128),
            "base": Size(12, 768, 12, 768),
            "large": Size(24, 1024, 16, 1024),
        },
        30522,
        512,
        "wordpiece",
    ),
    # Lan et al. 2020
    "albert": Family(
        {
            "tiny": Size(2, 128, 2, 64),
            "base": Size(12, 768, 12, 128),
            "large": Size(24, 1024, 16, 128),
            "xlarge": Size(24, 2048, 16, 128),
            "xxlarge": Size(12, 4096, 64, 128),
        },
        30000,
        512,
        "unigram",
    ),
    # Radford et al. 2019
    "gpt2": Family(
        {
            "tiny": TINY,
            "small": Size(12, 768, 12),
            "medium": Size(24, 1024, 16),
            "large": Size(36, 1280, 20),
            "xl": Size(48, 1600, 25),
        },
        50257,
        1024,
        "byte_bpe",
    ),
}
"""By ``model_type`` of config.json; the sizes are those of the papers, and a tiny one of each for tests and small corpora."""


def who_learns(objective: str) -> str:
    """Return a sentence that names the architectures of every objective, this one's first."""
    ordered = [objective, *(name for name in OBJECTIVES if name != objective)]
    return "; ".join(f"{name} is learned by {', '.join(OBJECTIVES[name])}" for name in ordered)
