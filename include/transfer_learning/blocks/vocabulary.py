"""Training only the word embeddings that the rows use: the gradient of all others is zero, and AdamW merely shrinks them.

A few thousand rows use a few thousand words of a vocabulary of 30,000 and more. Gradient, clipping and optimizer then work on
those rows alone; what weight decay does to the others is one product over all steps, applied at the end. The maths is that of
AdamW on the whole table (Loshchilov & Hutter 2019).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

from transfer_learning.blocks.batching import Tokens

MOST_USED = 0.5
"""Share of the vocabulary beyond which nothing is gained."""


@dataclasses.dataclass(frozen=True)
class UsedWords:
    """A word embedding cut down to the words that some rows use."""

    embedding: nn.Embedding
    used: np.ndarray[Any, np.dtype[np.int32]]
    """Their ids, sorted."""
    whole: torch.Tensor
    """All embeddings as they were, (vocabulary, width)."""

    def renumber(self, tokens: Tokens) -> Tokens:
        """Return the same rows with the numbers of the small table."""
        return dataclasses.replace(tokens, ids=np.searchsorted(self.used, tokens.ids).astype(np.int32))

    def restore(self, decay: float) -> None:
        """Put the whole table back: used words as trained, all others times ``decay``."""
        weight = self.whole * decay
        weight[torch.from_numpy(self.used).long()] = self.embedding.weight.detach()
        _replace(self.embedding, weight)


def keep_used(embedding: nn.Embedding, tokens: Tokens) -> UsedWords | None:
    """Cut an embedding down to the words of some rows; None where that would not pay or would move the padding token.

    Args:
        embedding: of the words, (vocabulary, width).
        tokens: all rows that will run through it.
    """
    used = np.unique(np.append(tokens.ids, np.int32(tokens.pad_id)))
    # Some models tell padding by its number.
    if len(used) > MOST_USED * embedding.num_embeddings or np.searchsorted(used, tokens.pad_id) != tokens.pad_id:
        return None
    whole = embedding.weight.detach()
    _replace(embedding, whole[torch.from_numpy(used).long()])
    return UsedWords(embedding, used, whole)


def _replace(embedding: nn.Embedding, weight: torch.Tensor) -> None:
    embedding.weight = nn.Parameter(weight)
    embedding.num_embeddings = len(weight)
