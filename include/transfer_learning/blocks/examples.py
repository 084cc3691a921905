"""What the training loop is given: rows with targets, and how a classifier turns them into logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from transfer_learning.blocks import freezing
from transfer_learning.blocks.attention import quickest_attention
from transfer_learning.blocks.batching import MULTIPLE, Tokens
from transfer_learning.blocks.extraction import arithmetic, frozen_passes
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.passes import Passes
from transfer_learning.blocks.state_cache import StateCache
from transfer_learning.blocks.train_loop import Examples


@dataclasses.dataclass(frozen=True)
class Data:
    """Tokenised rows with targets; the training rows come first, then ``validation`` rows."""

    tokens: Tokens
    targets: torch.Tensor
    """Class numbers, int64, on the CPU."""
    validation: int
    """How many of the last rows are the validation split."""
    class_weights: torch.Tensor | None
    features: torch.Tensor | None = None
    """What the head sees of each row, where it was computed before, fp32 (rows, width)."""

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.tokens) - self.validation


class Forward:
    """Runs rows through a classifier: from their tokens, from the stored output of its frozen blocks, or its head alone.

    Args:
        classifier: on its device.
        data: rows.
        block: the lowest block that ever trains.
        device: where the classifier is.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, classifier: TextClassifier, data: Data, block: int, device: str, precision: str) -> None:
        self.data = data
        self.states: StateCache | None = None
        """Output of the blocks below ``block``, where it pays to keep it."""
        self.device = device
        self._classifier, self._block, self._precision = classifier, block, precision

    def arithmetic(self) -> AbstractContextManager[object]:
        """Return the context that passes run in."""
        return arithmetic(self.device, self._precision)

    def frozen_passes(self) -> AbstractContextManager[Passes]:
        """Return the context of how features are computed."""
        return frozen_passes(self._classifier.model, self.device, self._precision)

    def set_modes(self, training: bool) -> None:
        """Prepare the classifier for training, or for evaluation."""
        model = self._classifier.model
        model.set_attn_implementation(quickest_attention(model.config, self.device, self._precision, training=training))
        if training:
            freezing.set_modes(self._classifier)
        else:
            self._classifier.eval()

    def features(self, rows: Sequence[int]) -> torch.Tensor:
        """Return what the head sees of some rows, from the stored states where there are any, (rows, width)."""
        # In training a batch may pad to its longest row: what a row gives does depend on the others there.
        multiple = 1 if torch.is_grad_enabled() and self.device == "cpu" else MULTIPLE
        if self.states is None:
            return self._classifier.features(self.data.tokens.batch(rows, self.device, multiple))
        return self._classifier.features_from(*self.states.batch(rows, self.device, multiple), self._block)

    def on_rows(self, part: range) -> Examples:
        """Return rows that run through the whole classifier."""

        def logits(rows: Sequence[int]) -> torch.Tensor:
            with self.arithmetic():
                return self._classifier.head.classify(self.features([part[row] for row in rows]))

        return self._examples(part, logits, self.data.tokens.lengths)

    def on_features(self, features: torch.Tensor) -> Callable[[range], Examples]:
        """Return what gives rows that run through the head alone."""
        features = features.to(self.device)

        def examples(part: range) -> Examples:
            def logits(rows: Sequence[int]) -> torch.Tensor:
                with self.arithmetic():
                    return self._classifier.head.classify(features[[part[row] for row in rows]])

            return self._examples(part, logits, [1] * len(features))

        return examples

    def _examples(self, part: range, logits: Callable[[Sequence[int]], torch.Tensor], lengths: list[int]) -> Examples:
        targets = self.data.targets[part.start : part.stop]
        return Examples(logits, [lengths[row] for row in part], targets, self.data.class_weights)
