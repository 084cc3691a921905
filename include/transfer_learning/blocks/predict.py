"""Probabilities from a published folder. A row's result does not depend on the rows beside it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.special import softmax

from transfer_learning.blocks.base_model import Base, labels_of, load_base, read_config
from transfer_learning.blocks.batching import Tokens, tokenize
from transfer_learning.blocks.extraction import extract
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.model_folder import PASSPORT
from transfer_learning.blocks.passes import Passes, batches_of
from transfer_learning.blocks.pooling import POOLINGS
from transfer_learning.blocks.safe_loading import check_files
from transfer_learning.errors import BadInput, nearest, one_line
from transfer_learning.specs import TaskSpec

FORMATS = ("transformers", "sentence_transformers", "adapter")


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What a classifier's head sees of some texts."""

    features: torch.Tensor
    """fp32 (rows, width), on the CPU."""
    tokens: Tokens | None = None
    """What they were computed from; None where they were stored."""
    model: TextClassifier | None = None
    """What computed them."""


class Classifier:
    """A published text classifier, ready to predict in fp32.

    Args:
        model: backbone and head.
        base: its tokenizer.
        labels: label names in the order of the columns.
        max_length: longer inputs are cut to this many tokens.
        device: where it runs.
        task: the column roles it was trained with, where its passport tells.
        choice: which strategy ``auto`` chose for it, and why, where it did.
    """

    def __init__(
        self,
        model: TextClassifier,
        base: Base,
        labels: Sequence[str],
        max_length: int,
        device: str,
        task: TaskSpec | None = None,
        choice: str | None = None,
    ) -> None:
        self.labels = list(labels)
        self.max_length = max_length
        self.task = task
        self.choice = choice
        self._model = model.eval().to(device)
        self._tokenizer = base.tokenizer
        self._device = device

    @property
    def width(self) -> int:
        """Of what a pooled head sees."""
        head = self._model.pooled_head
        return self._model.backbone.width if head is None else head.linear.in_features

    def probabilities(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, on_rows: Callable[[int], None] | None = None
    ) -> NDArray[np.float64]:
        """Return the probability of each label, shape (rows, labels).

        Args:
            texts: first texts.
            pairs: second texts, or None.
            on_rows: called after each batch with the number of rows done; what it raises ends the prediction.
        """
        return self.judge(self.see(texts, pairs, on_rows=on_rows)) if texts else np.zeros((0, len(self.labels)))

    def see(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        on_rows: Callable[[int], None] | None = None,
        known: Seen | None = None,
    ) -> Seen:
        """Return what the head sees of each text; at least one.

        Each row is padded to its own length rounded up to 8 and batched with rows of that length only.

        Args:
            texts: first texts.
            pairs: second texts, or None.
            on_rows: called after each batch with the number of rows done; what it raises ends the prediction.
            known: what another classifier saw of these texts; it is taken where backbone and tokens are the same.

        Raises:
            OutOfMemory: a single row does not fit.
        """
        tokens = tokenize(self._tokenizer, texts, pairs, self.max_length, segments=self._model.backbone.has_segments)
        if known is not None and known.tokens == tokens and known.model is not None and self._model.sees_as(known.model):
            if on_rows is not None:
                on_rows(len(tokens))
            return known
        batches = batches_of(tokens, self._device)
        ends = list(itertools.accumulate(map(len, batches)))

        def tell(done: int, so_far: object = None) -> None:  # noqa: ARG001
            if on_rows is not None and done:
                on_rows(ends[done - 1])

        def compute(rows: Sequence[int]) -> torch.Tensor:
            return self._model.features(tokens.batch(rows, self._device)).float()

        features = extract(compute, batches, Passes(self._device), tell)
        tell(len(batches))
        return Seen(features, tokens, self._model)

    def judge(self, seen: Seen) -> NDArray[np.float64]:
        """Return the probability of each label, shape (rows, labels).

        The head sees one row at a time, in a copy of its own: how a product is summed changes with the number of rows and with
        where they lie in memory.
        """
        with torch.inference_mode():
            features = seen.features.to(self._device)
            each = [self._model.head.classify(features[i : i + 1].clone()) for i in range(len(features))]
        return np.asarray(softmax(torch.cat(each).cpu().double().numpy(), axis=-1))


def load_classifier(folder: Path, device: str = "cpu") -> Classifier:
    """Load a published folder, or a plain Hugging Face one with a classification head (labels from ``id2label``).

    Adapters are merged into their base, which lies in the same folder.

    Only safetensors and JSON are read, and only from this folder.

    Raises:
        BadInput: a format we do not load, files that could run code, damaged weights, or labels that do not fit the head.
    """
    passport = read_passport(folder)
    config = read_config(folder)
    labels = passport["labels"] if passport else labels_of(config)
    pooled = passport is not None and passport["model_format"] == "sentence_transformers"
    head = passport["heads"][0] if pooled and passport is not None else {}
    pooling = str(head["pooling"]) if pooled else "architecture"
    base = load_base(folder, labels, pooling, seed=0)
    if not pooled:
        refuse_missing_head(folder, base, labels)
    model = TextClassifier(base.model, len(labels), pooling, normalize=bool(head.get("normalize")))
    if pooled:
        _load_dense(model, folder, str(head["file"]))
    longest = int(passport["max_length"]) if passport else base.max_length
    task = TaskSpec.from_dict(passport["task"]) if passport and "task" in passport else None
    choice = None
    if passport and "choice" in passport:
        choice = f"strategy chosen by auto: {passport['strategy']}. {' '.join(passport['choice']['sentences'])}"
    return Classifier(model, base, labels, min(longest, base.max_length), device, task, choice)


def refuse_missing_head(folder: Path, base: Base, labels: Sequence[str]) -> None:
    """Check that a model's head was read and not drawn.

    Raises:
        BadInput: it was drawn, since the weights hold none for these labels.
    """
    if base.head_labels != labels:
        what = f"its weights hold no classification head for {', '.join(labels[:10])}"
        raise BadInput("NO_HEAD", what, "evaluate a model that was fine-tuned", file=folder)


def read_passport(folder: Path) -> dict[str, Any] | None:
    """Return the passport with its labels and first head checked, or None for a folder without one."""
    path = folder / PASSPORT
    if not path.exists():
        return None
    try:
        passport = json.loads(path.read_text(encoding="utf-8"))
        kind, labels, heads = passport["model_format"], passport["labels"], passport["heads"]
        sound = passport["format"] == 1 and isinstance(passport["max_length"], int) and passport["max_length"] > 0
        sound = sound and len(labels) > 0 and all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels)
        if "choice" in passport:
            sound = sound and isinstance(passport["strategy"], str) and isinstance(passport["choice"]["sentences"], list)
        if kind == "sentence_transformers":
            sound = sound and heads[0]["pooling"] in POOLINGS and isinstance(heads[0]["file"], str)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadInput(
            "BAD_PASSPORT", f"cannot be read: {type(error).__name__} {error}", "publish the model again", file=path
        ) from None
    if kind not in FORMATS:
        raise BadInput(
            "BAD_PASSPORT", f"a model of format {str(kind)!r} cannot be evaluated yet{nearest(str(kind), FORMATS)}", file=path
        )
    if not labels and heads and heads[0].get("name") == "language_model":
        raise BadInput("NO_HEAD", "is that of a language model, which knows no labels", "fine-tune it first", file=path)
    if not sound:
        raise BadInput(
            "BAD_PASSPORT", "is not one of format 1 with distinct labels and a head", "publish the model again", file=path
        )
    return dict(passport)


def _load_dense(model: TextClassifier, folder: Path, name: str) -> None:
    """Load the linear layer on pooled states; its file lies inside the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path.suffix != ".safetensors" or not path.is_file():
        raise BadInput("NO_HEAD", f"there is no head file {name[:80]!r} in it", "publish the model again", file=folder)
    check_files(path.parent)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        what = f"not a whole safetensors file: {one_line(str(error))[:200]}"
        raise BadInput("BAD_WEIGHTS", what, "publish the model again", file=path) from None
    assert model.pooled_head is not None
    expected = {key: tuple(value.shape) for key, value in model.pooled_head.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if found != expected or not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise BadInput("NO_HEAD", f"the head has {found}, expected {expected}", "publish the model again", file=path)
    model.pooled_head.load_state_dict(weights)
