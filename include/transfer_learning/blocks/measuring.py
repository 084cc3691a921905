"""A quick look at a base model on a sample of labelled rows, before anything is trained.

The sample is bounded, so that a look takes seconds whatever the number of rows, and a function of seed and rows, so that a retry
sees the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transfer_learning.blocks import probe
from transfer_learning.blocks.backbone import Backbone
from transfer_learning.blocks.base_model import Base, load_base, untrained
from transfer_learning.blocks.batching import Tokens, tokenize
from transfer_learning.blocks.extraction import Extractor, extract, frozen_passes
from transfer_learning.blocks.passes import batches_of
from transfer_learning.blocks.probe import Accuracy
from transfer_learning.blocks.rows import Rows
from transfer_learning.blocks.sampling import drawing_order
from transfer_learning.blocks.transferability import TokenFigures, logme, token_figures
from transfer_learning.errors import Stopped
from transfer_learning.stage import Run

MOST_ROWS = 1000
MOST_TOKENS = 16_384
"""Of all rows of a sample: MiniLM takes 3,000 a second and more on one core."""
LONGEST = 64
"""Tokens of a row: the beginning of a text tells most of its topic."""

FEWEST_OF_CLASS = 5
"""Rows of each class that come first, so that a rare one is there in each fold of a cross-validation."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """How well the states behind one block tell the classes."""

    number: int
    """0 is the embeddings."""
    logme: float
    """Log evidence a row (``transferability.logme``)."""
    can_end: bool
    """Whether a model can end there (``Backbone.can_end_at``)."""
    probe: Accuracy | None
    """Of a linear probe on a row's pooled states; None where there are too few rows, or nobody asked."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a quick look told."""

    sampled: int
    """Rows of the sample."""
    layers: tuple[Layer, ...]
    untrained: Accuracy | None
    """Of a probe on the last layer of the same architecture with random weights."""
    tokens: TokenFigures

    @property
    def last(self) -> Layer:
        """The last layer."""
        return self.layers[-1]

    @property
    def best(self) -> Layer:
        """The layer with the highest LogME, of those that a model can end at."""
        return max((layer for layer in self.layers if layer.can_end), key=lambda layer: layer.logme)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return dataclasses.asdict(self) | {"layers": [dataclasses.asdict(layer) for layer in self.layers]}


def measure(folder: Path, rows: Rows, pooling: str, seed: int, run: Run, every_layer: bool = False) -> Measured:
    """Look at a base model through some labelled rows.

    Args:
        folder: of the base model.
        rows: to draw the sample from; of two classes or more.
        pooling: from the states of a row to one vector.
        seed: of the sample, of the random weights and of the folds.
        run: hears about progress; its numerics name device and precision.
        every_layer: probe each layer, and not only the last and the one with the highest LogME.

    Raises:
        BadInput: a base model that cannot be loaded.
        Stopped: the job was asked to stop.
    """
    base = load_base(folder, [], pooling, seed)
    sample, tokens = _sample(base, rows, seed)
    targets = torch.tensor([rows.label_names.index(label) for label in sample.labels])
    texts = [*sample.texts, *(sample.pairs or ())]
    classes = len(rows.label_names)

    def accuracy(features: torch.Tensor) -> Accuracy | None:
        return probe.cross_validated(features, targets, classes, seed=seed, poll=lambda: _end_if_asked(run))

    trained = _features(base.model, tokens, pooling, run, "its own weights")
    random = _features(untrained(folder, seed).model, tokens, pooling, run, "random weights")
    scores = [logme(features, targets) for features in trained]
    last = len(trained) - 1
    ends = Backbone(base.model.base_model).can_end_at
    layers = tuple(Layer(number=n, logme=score, can_end=ends(n), probe=None) for n, score in enumerate(scores))
    found = Measured(
        sampled=len(sample),
        layers=layers,
        untrained=accuracy(random[last]),
        tokens=token_figures(base.tokenizer, texts, LONGEST),
    )
    wanted = range(last + 1) if every_layer else {last, found.best.number}
    probed = (dataclasses.replace(one, probe=accuracy(trained[one.number])) if one.number in wanted else one for one in layers)
    return dataclasses.replace(found, layers=tuple(probed))


def _sample(base: Base, rows: Rows, seed: int) -> tuple[Rows, Tokens]:
    """Return the rows that are looked at, and their tokens, within both bounds."""
    sample = rows.select(drawing_order(rows, seed, FEWEST_OF_CLASS)[:MOST_ROWS])
    longest, segments = min(LONGEST, base.max_length), Backbone(base.model.base_model).has_segments
    tokens = tokenize(base.tokenizer, sample.texts, sample.pairs, longest, segments=segments)
    kept = int(np.searchsorted(tokens.starts, MOST_TOKENS, side="right")) - 1
    if kept < len(sample):
        sample = sample.select(np.arange(kept))
        tokens = tokenize(base.tokenizer, sample.texts, sample.pairs, longest, segments=segments)
    return sample, tokens


def _features(model: Any, tokens: Tokens, pooling: str, run: Run, weights: str) -> Sequence[torch.Tensor]:
    """Return the pooled states behind each block, fp32 (rows, width) each, on the CPU."""
    device = str(run.numerics["device"])
    backbone = Backbone(model.to(device).eval())
    blocks = tuple(range(len(backbone.blocks)))
    extractor = Extractor(backbone, blocks, pooling, normalize=False)
    batches = batches_of(tokens, device)

    def poll(number: int, so_far: Callable[[], torch.Tensor]) -> None:  # noqa: ARG001
        _end_if_asked(run)
        run.progress(phase=f"measure the base with {weights}", step=number, steps=len(batches))

    with frozen_passes(model, device, str(run.numerics["precision"])) as passes:
        features = extract(lambda some: extractor(tokens.batch(some, device)), batches, passes, poll)
    return features.chunk(len(blocks), dim=1)


def _end_if_asked(run: Run) -> None:
    if run.stop_requested:
        raise Stopped("STOPPED while the base model was measured; a retry measures again")
