"""How a base model is adapted."""

from __future__ import annotations

import dataclasses
from typing import Literal

from transfer_learning.errors import BadInput
from transfer_learning.settings import NOT_IN_FINGERPRINT, Settings
from transfer_learning.specs.names import check_seed
from transfer_learning.specs.task import TaskSpec


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneSpec(Settings):
    """How a base model is adapted. None means: chosen by model width and number of rows (``blocks/defaults.py``)."""

    strategy: Literal["full", "linear_probe", "probe_then_fine_tune", "top_layers", "gradual_unfreeze", "lora", "auto"] = "full"
    """Every weight; only a new head; the head first, then head and top blocks; head and top blocks at once; the head first, then
    one more block with each epoch, from the top (Howard & Ruder 2018); or the head and low-rank adapters of the attention (Hu et
    al. 2021), which are merged into the published weights unless ``lora_merge`` is False. ``auto`` measures the base model on a
    sample of the rows, chooses, and says why in log, verdict and model card."""
    init_from: Literal["base", "latest", "champion", "scratch"] = "base"
    """Where training starts: the base model on all rows, or the model's own newest or live version, the base where there is none
    yet; rate and steps that are left open are then in proportion to the rows that are new to the version, a tenth of the base's
    at least. ``scratch`` takes the base's architecture and tokenizer and draws every weight from the seed: what a claim of
    transfer is measured against (He, Girshick & Dollar 2018)."""
    replay: float | None = None
    """Share of the training rows that are older ones, drawn by seed: rows that the starting version was trained on, and rows of
    the operator's ``replay`` dataset. All other rows of the dataset train. None takes every row of the dataset."""
    train_rows: int | None = None
    """Learn from so many of the training rows only, as a learning curve asks: drawn by row key and seed, each label with its
    share and at least one row; a larger draw holds every smaller one. Validation rows all stay. None takes every row."""
    task: TaskSpec | None = None
    """Column roles; None takes the dataset's."""
    unfreeze_blocks: int | None = None
    """How many of the top blocks ever train, or get adapters; None means all. ``full`` and ``linear_probe`` leave no choice, and
    ``top_layers`` needs a number."""
    pooling: Literal["architecture", "mean", "cls", "max", "last_token", "concat"] | None = None
    """What the head sees: ``architecture`` is the model's own classification head; the others pool a block's states, as in
    ``FeatureSpec``. None means ``mean`` for ``linear_probe`` and ``probe_then_fine_tune`` on single texts, ``architecture`` for
    the others and for pairs."""
    layer: int | str | None = None
    """For ``linear_probe``: the block whose states the head sees, as in ``FeatureSpec.layers``; None is the last. The published
    model ends there."""
    normalize: bool = False
    """For ``linear_probe``: the head sees vectors of length 1."""
    classifier: Literal["softmax", "linear_svm"] = "softmax"
    """For ``linear_probe``: logistic regression, or a linear support vector machine with calibrated scores."""
    epochs: int | None = None
    """Passes over the rows with all unfrozen that ever is; ``gradual_unfreeze`` has one more for each block before."""
    head_epochs: int | None = None
    """Passes that train the head alone."""
    batch_size: int | None = None
    """Rows to one optimizer step, whatever the micro-batch."""
    backbone_lr: float | None = None
    """Peak learning rate of the backbone; with ``layer_decay`` that of its last block."""
    head_lr: float | None = None
    """Peak learning rate of the head."""
    layer_decay: float | Literal["discriminative"] = 1.0
    """Peak rate of each block as a share of the one above, such as 0.8; ``discriminative`` is 1 / 2.6 (Howard & Ruder 2018)."""
    schedule: Literal["linear", "slanted_triangular"] = "linear"
    """How the rate rises for the share ``warmup`` of a phase's steps, and falls then: from and to zero, or from and to a 32nd of
    its peak (Howard & Ruder 2018)."""
    lora_rank: int = 8
    """For ``lora``: rank of the adapters."""
    lora_alpha: int = 16
    """For ``lora``: the adapters count ``lora_alpha / lora_rank`` times."""
    lora_merge: bool = True
    """For ``lora``: publish one plain model. False publishes adapters and head alone, in the format of ``peft``, with the base's
    digest: small, but they need that very base wherever they are used, and a version they start from is kept for them."""
    weight_decay: float = 0.01
    """Decoupled weight decay; never on biases and normalisation weights."""
    warmup: float = 0.1
    """Share of a phase's steps with rising rate; ``cut_frac`` of ``slanted_triangular``."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    max_length: int | None = None
    """Longest input in tokens, in training and of the published model; None means what the model can."""
    class_weights: Literal["balanced"] | None = None
    """``balanced`` weighs each class by the inverse of its share."""
    early_stopping: bool = True
    """With a validation split: keep the best epoch and stop after ``patience`` epochs without a better one."""
    patience: int = 2
    """Epochs without improvement of the validation loss."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 where the processor multiplies it natively, else fp32."""
    seed: int = 0
    """Decides order, initial head, dropout, and what is drawn."""
    micro_batch: int | None = dataclasses.field(default=None, metadata=NOT_IN_FINGERPRINT)
    """Rows to one forward pass; None starts at the batch size and halves when memory runs out."""
    state_cache: Literal["auto", "on", "off"] = dataclasses.field(default="auto", metadata=NOT_IN_FINGERPRINT)
    """Whether the output of frozen blocks is computed once for each row and kept on disk; ``auto`` where that pays."""
    state_cache_gb: float = dataclasses.field(default=16.0, metadata=NOT_IN_FINGERPRINT)
    """Most disk space for it, GB; what would need more is computed anew in each epoch."""
    checkpoint_seconds: float = dataclasses.field(default=60.0, metadata=NOT_IN_FINGERPRINT)
    """Time between checkpoints, s."""
    resume_elsewhere: Literal["mark", "refuse"] = dataclasses.field(default="mark", metadata=NOT_IN_FINGERPRINT)
    """A retry that lands on another kind of machine goes on in the same order, and the model card says so; or it is refused, and
    the next retry may land on the right one."""

    def check(self) -> None:
        check_seed(self.seed, "FineTuneSpec.seed")
        positive = (
            "epochs",
            "head_epochs",
            "batch_size",
            "backbone_lr",
            "head_lr",
            "max_length",
            "micro_batch",
            "unfreeze_blocks",
            "train_rows",
        )
        also = ("max_grad_norm", "patience", "checkpoint_seconds", "state_cache_gb", "lora_rank", "lora_alpha")
        for name in (*positive, *also):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput("BAD_SETTING", f"FineTuneSpec.{name} must be above 0, found {value}")
        if self.weight_decay < 0 or not 0 <= self.warmup < 1:
            raise BadInput("BAD_SETTING", "FineTuneSpec.weight_decay must be 0 or more, and warmup at least 0 and below 1")
        if self.replay is not None and not 0 <= self.replay < 1:
            raise BadInput("BAD_SETTING", f"FineTuneSpec.replay must be at least 0 and below 1, found {self.replay}")
        self._check_start()
        self._check_rates()
        self._check_blocks()
        self._refuse_foreign("linear_probe", "layer", "normalize", "classifier")
        if self.pooling == "architecture":
            self.check_own_head("pooling='architecture'")
        if given := self._given("head_epochs", "head_lr") if self._given("classifier") else []:
            what = f"a linear_svm is fitted until it converges: {' and '.join(given)} cannot apply"
            raise BadInput("BAD_SETTING", what, "leave them out, or take classifier='softmax'")
        self._refuse_foreign("lora", "lora_rank", "lora_alpha", "lora_merge")
        if not self.lora_merge and self.pooling not in (None, "architecture"):
            what = (
                f"with lora_merge=False the head is the one that peft loads, the architecture's, and pooling is {self.pooling!r}"
            )
            raise BadInput("BAD_SETTING", what, "leave pooling out, or merge")

    def check_own_head(self, where: str) -> None:
        """Check the settings for a model's own head, which trains by gradient steps on the last layer.

        Raises:
            BadInput: one that belongs to a head on pooled states.
        """
        if given := self._given("layer", "normalize", "classifier"):
            what = f"with {where} the model's own head trains, which takes no {' and no '.join(given)}"
            raise BadInput("BAD_SETTING", what, "leave them out")

    @property
    def goes_on(self) -> bool:
        """Whether training goes on from the model's own version, where there is one."""
        return self.init_from in ("latest", "champion")

    def _check_start(self) -> None:
        if self.replay is not None and self.init_from == "scratch":
            what = "replay keeps what a version has learned, and init_from is 'scratch', which knows nothing"
            raise BadInput("BAD_SETTING", what, "leave one of the two out")
        if not self.lora_merge and self.init_from == "scratch":
            what = "with lora_merge=False the adapters stand beside a base, and init_from is 'scratch', which keeps none"
            raise BadInput("BAD_SETTING", what, "leave one of the two out")
        if self.strategy == "auto" and self.init_from == "scratch":
            what = "strategy 'auto' measures what the base has learned, and init_from is 'scratch', which leaves that out"
            raise BadInput("BAD_SETTING", what, "name a strategy")
        if self.replay is not None and self.train_rows is not None:
            raise BadInput("BAD_SETTING", "replay and train_rows both say which rows train", "leave one of the two out")

    def _check_rates(self) -> None:
        if isinstance(self.layer_decay, float) and not 0 < self.layer_decay <= 1:
            raise BadInput(
                "BAD_SETTING",
                f"FineTuneSpec.layer_decay must be above 0 and at most 1, found {self.layer_decay}",
                "a rate divided by 2.6 is layer_decay='discriminative'",
            )
        given = self._given("epochs", "backbone_lr", "layer_decay", "schedule")
        if self.strategy == "linear_probe" and given:
            raise BadInput(
                "BAD_SETTING",
                f"a linear_probe trains no backbone: {' and '.join(given)} cannot apply",
                "set head_epochs and head_lr",
            )

    def _check_blocks(self) -> None:
        if self.unfreeze_blocks is not None and self.strategy in ("full", "linear_probe", "auto"):
            raise BadInput(
                "BAD_SETTING",
                f"unfreeze_blocks does not apply to strategy {self.strategy!r}",
                "use 'top_layers', 'probe_then_fine_tune', 'gradual_unfreeze' or 'lora'",
            )
        if self.strategy == "top_layers" and self.unfreeze_blocks is None:
            raise BadInput("BAD_SETTING", "strategy 'top_layers' trains the head and the top blocks", "set unfreeze_blocks")
        if self.strategy in ("full", "top_layers", "lora", "auto") and self.head_epochs is not None:
            phase = "may choose one without a" if self.strategy == "auto" else "has no"
            raise BadInput(
                "BAD_SETTING",
                f"strategy {self.strategy!r} {phase} phase for the head alone: head_epochs does not apply",
                "use 'probe_then_fine_tune' or 'gradual_unfreeze'",
            )

    def _refuse_foreign(self, strategy: str, *names: str) -> None:
        """Refuse settings that belong to one strategy where it is another."""
        given = self._given(*names)
        if given and self.strategy != strategy:
            what = f"only strategy {strategy!r} takes {' and '.join(given)}, and the strategy is {self.strategy!r}"
            raise BadInput("BAD_SETTING", what)

    def _given(self, *names: str) -> list[str]:
        """Return which settings are not their defaults."""
        chosen = self.canonical()
        return [name for name in names if name in chosen]
