"""How a model is pretrained, from scratch or continued from a base model."""

from __future__ import annotations

import dataclasses
from typing import Literal

from transfer_learning.errors import BadInput, nearest
from transfer_learning.settings import NOT_IN_FINGERPRINT, Settings
from transfer_learning.specs.architectures import FAMILIES, OBJECTIVES, PAIRED, who_learns
from transfer_learning.specs.names import check_seed
from transfer_learning.specs.task import TaskSpec

SIZES = ("layers", "hidden_size", "heads", "vocab_size")
ONLY_FROM_SCRATCH = ("size", *SIZES, "tokenizer")
ONLY_CONTINUED = ("head_epochs", "head_lr")

FEWEST_TOKENS = {"wordpiece": 32, "byte_bpe": 261, "unigram": 32}
"""Byte-level BPE knows every byte, and has five special tokens."""

MASKED_SHARE = 0.15
"""Devlin et al. 2019."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainSpec(Settings):
    """How a model is pretrained, on plain text or on the labels of a source task.

    None means: see ``blocks/language/pretraining.py`` and, for ``supervised``, ``blocks/source_task.py``.
    """

    objective: Literal["masked_lm", "causal_lm", "replaced_token", "supervised"] = "masked_lm"
    """What is predicted: masked tokens from both sides (Devlin et al. 2019), the next token (Radford et al. 2019), which tokens a
    small generator has replaced (Clark et al. 2020), or the labels of a source task, whose head is thrown away on transfer (Oquab
    et al. 2014, Yosinski et al. 2014)."""
    sentences: Literal["next_sentence", "sentence_order"] | None = None
    """For ``masked_lm``: rows are pairs of segments, and the model also tells whether the second one is the true next one (Devlin
    et al. 2019), or whether the two are swapped (Lan et al. 2020). None packs documents into full blocks."""
    architecture: Literal["bert", "roberta", "distilbert", "electra", "albert", "gpt2"] | None = None
    """Trains this one from scratch. None continues from the base model."""
    size: str | None = None
    """From scratch: a size of the architecture's paper, such as ``base``, or ``tiny``, which None means."""
    layers: int | None = None
    """From scratch: layers, in the place of the size's."""
    hidden_size: int | None = None
    """From scratch: width of the layers, in the place of the size's; feed-forward layers are four times as wide."""
    heads: int | None = None
    """From scratch: attention heads, in the place of the size's."""
    vocab_size: int | None = None
    """From scratch: most tokens of the tokenizer; None is the number of the architecture's paper."""
    tokenizer: Literal["train", "base"] = "train"
    """From scratch: the tokenizer is trained from the corpus, or it is that of the base model, of which nothing else is used."""
    task: TaskSpec | None = None
    """Column roles; None takes the dataset's. Text and text pair of a row are one document, and labels are not read;
    ``supervised`` reads them, and a pair as such."""
    max_length: int | None = None
    """Tokens to a block, or the longest input of ``supervised``; None means what the model can."""
    masked_share: float = MASKED_SHARE
    """For ``masked_lm`` and ``replaced_token``: share of the tokens that are chosen."""
    epochs: int | None = None
    """Passes over the corpus with all weights."""
    head_epochs: int | None = None
    """Passes that train a new language-model head alone, where the base brings none."""
    batch_size: int | None = None
    """Blocks, or rows of ``supervised``, to one optimizer step, whatever the micro-batch."""
    learning_rate: float | None = None
    """Peak rate of all weights."""
    head_lr: float | None = None
    """Peak rate of a new head while it is trained alone."""
    weight_decay: float = 0.01
    """Decoupled weight decay; never on biases and normalisation weights."""
    warmup: float = 0.1
    """Share of the steps with rising rate; linear decay to zero follows."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 where the processor multiplies it natively, else fp32."""
    seed: int = 0
    """Decides initial weights, order, masks and dropout."""
    micro_batch: int | None = dataclasses.field(default=None, metadata=NOT_IN_FINGERPRINT)
    """Blocks, or rows, to one forward pass; None starts at the batch size and halves when memory runs out."""
    checkpoint_seconds: float = dataclasses.field(default=60.0, metadata=NOT_IN_FINGERPRINT)
    """Time between checkpoints, s."""
    resume_elsewhere: Literal["mark", "refuse"] = dataclasses.field(default="mark", metadata=NOT_IN_FINGERPRINT)
    """A retry that lands on another kind of machine goes on in the same order, and the model card says so; or it is refused."""

    def check(self) -> None:
        check_seed(self.seed, "PretrainSpec.seed")
        for name in (*SIZES, "epochs", "head_epochs", "batch_size", "learning_rate",
                     "head_lr", "max_length", "micro_batch", "max_grad_norm", "checkpoint_seconds"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput("BAD_SETTING", f"PretrainSpec.{name} must be above 0, found {value}")
        if self.weight_decay < 0 or not 0 <= self.warmup < 1:
            raise BadInput("BAD_SETTING", "PretrainSpec.weight_decay must be 0 or more, and warmup at least 0 and below 1")
        if not 0 < self.masked_share < 1:
            raise BadInput("BAD_SETTING", f"PretrainSpec.masked_share must lie between 0 and 1, found {self.masked_share}")
        if self.objective in ("causal_lm", "supervised") and self.masked_share != MASKED_SHARE:
            raise BadInput("BAD_SETTING", f"masked_share belongs to 'masked_lm', and the objective is {self.objective!r}")
        if self.sentences is not None and self.objective != "masked_lm":
            raise BadInput("BAD_SETTING", f"sentences belongs to 'masked_lm', and the objective is {self.objective!r}")
        given = [name for name in ONLY_CONTINUED if getattr(self, name) is not None]
        if given and self.objective == "supervised":
            what = f"{', '.join(given)} belong to a head that trains alone first, and that of 'supervised' does not"
            raise BadInput("BAD_SETTING", what, "leave them out")
        self._check_start()

    def _check_start(self) -> None:
        """Check what belongs to a model from scratch, and what to one that is continued."""
        idle: tuple[str, ...]
        if self.architecture is None:
            idle, of, fix = ONLY_FROM_SCRATCH, "from scratch", "name an architecture"
        else:
            idle, of, fix = ONLY_CONTINUED, "continued from a base", "leave them out"
        if given := [name for name in idle if name in self.canonical()]:
            raise BadInput("BAD_SETTING", f"{', '.join(given)} belong to a model {of}, and this one is not", fix)
        if self.architecture is None:
            return
        if self.tokenizer == "base" and self.vocab_size is not None:
            raise BadInput("BAD_SETTING", "vocab_size belongs to a tokenizer that is trained, and it is that of the base model")
        if self.architecture not in OBJECTIVES[self.objective]:
            what = f"{self.architecture!r} does not support the objective {self.objective!r}"
            raise BadInput("ARCHITECTURE", what, who_learns(self.objective))
        if self.sentences is not None and self.architecture not in PAIRED:
            what = f"{self.architecture!r} does not support {self.sentences!r}"
            raise BadInput("ARCHITECTURE", what, f"it is learned by {', '.join(PAIRED)}")
        sizes = FAMILIES[self.architecture].sizes
        if self.size is not None and self.size not in sizes:
            what = f"{self.architecture} has no size {self.size[:40]!r}{nearest(self.size, sizes)}"
            raise BadInput("BAD_SETTING", what, f"known: {', '.join(sizes)}")
        size = sizes[self.size or "tiny"]
        width, heads = self.hidden_size or size.hidden_size, self.heads or size.heads
        if width % heads:
            raise BadInput("BAD_SETTING", f"a width of {width} cannot be cut into {heads} attention heads", "choose a multiple")
        fewest = FEWEST_TOKENS[FAMILIES[self.architecture].tokenizer]
        if self.vocab_size is not None and self.vocab_size < fewest:
            what = f"PretrainSpec.vocab_size is {self.vocab_size}, and the tokenizer of {self.architecture} has {fewest} at least"
            raise BadInput("BAD_SETTING", what)
