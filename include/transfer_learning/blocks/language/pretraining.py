"""The phases of a pretraining: a new head on the frozen base, then all weights; each resumes from its own position.

What a spec leaves open: 3 epochs in steps of 32 blocks at a peak rate of 5e-4 from scratch, where Clark et al. (2020) train
small models and Liu et al. (2019) base ones at 5e-4 and 6e-4, and of 1e-4 where a base is continued (Gururangan et al. 2020). A
new head trains alone for one epoch at 1e-3.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from transfer_learning.blocks.attention import quickest_attention
from transfer_learning.blocks.checkpoint import Checkpoints, Snapshot
from transfer_learning.blocks.language.model import LanguageModel
from transfer_learning.blocks.language.objectives import LanguageExamples, perplexity
from transfer_learning.blocks.language.utilisation import ceiling, training_flops
from transfer_learning.blocks.phases import files_of, snapshot_of, state_of
from transfer_learning.blocks.train_loop import Phase, load_weights, train, weight_groups
from transfer_learning.errors import Diverged
from transfer_learning.specs import PretrainSpec
from transfer_learning.stage import Run

SAMPLE = 64
"""Blocks that tell how many tokens are predicted in each."""

EPOCHS, HEAD_EPOCHS = 3, 1
BATCH_SIZE = 32
SCRATCH_LR, CONTINUED_LR, HEAD_LR = 5e-4, 1e-4, 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A spec with nothing left open."""

    epochs: int
    head_epochs: int
    """0 where the head is trained already, or all weights are new."""
    batch_size: int
    micro_batch: int
    learning_rate: float
    head_lr: float


def resolve(spec: PretrainSpec, blocks: int, *, new_head: bool) -> Plan:
    """Fill in what the spec leaves open.

    Args:
        spec: the settings.
        blocks: that are trained on.
        new_head: whether a base is continued that brings no head.
    """
    batch_size = min(spec.batch_size or BATCH_SIZE, blocks)
    return Plan(
        epochs=spec.epochs or EPOCHS,
        head_epochs=(spec.head_epochs or HEAD_EPOCHS) if new_head else 0,
        batch_size=batch_size,
        micro_batch=min(spec.micro_batch or batch_size, batch_size),
        learning_rate=spec.learning_rate or (SCRATCH_LR if spec.architecture else CONTINUED_LR),
        head_lr=spec.head_lr or HEAD_LR,
    )


class Pretraining:
    """Runs the phases.

    Args:
        language: the model, on its device.
        examples: what trains.
        validation: what tells the perplexity on other documents, or None.
        spec: the settings as given.
        plan: the same with nothing left open.
        run: hears about progress; its numerics are saved in every checkpoint.
        checkpoints: where to write.
        snapshot: where to go on, or None.
        kept: what every checkpoint keeps beside weights and position, as JSON values.
    """

    def __init__(
        self,
        language: LanguageModel,
        examples: LanguageExamples,
        validation: LanguageExamples | None,
        spec: PretrainSpec,
        plan: Plan,
        run: Run,
        checkpoints: Checkpoints,
        snapshot: Snapshot | None,
        kept: Mapping[str, Any],
    ) -> None:
        self.language, self.examples, self.validation = language, examples, validation
        self.spec, self.plan, self.run = spec, plan, run
        self._checkpoints, self._snapshot, self._kept = checkpoints, snapshot, dict(kept)
        self.finished: dict[str, dict[str, Any]] = dict(snapshot.facts["finished"]) if snapshot else {}
        """Steps and history of each finished phase."""
        self.blocks_per_second: float | None = None
        """Pace of the training of all weights in this process; None where it was over."""
        sample = range(min(SAMPLE, len(examples.blocks)))
        predictions = examples.weights(sample)[0] / len(sample)
        self._flops = training_flops(language, examples.blocks.length, predictions)

    def run_phases(self) -> None:
        """Run what is left.

        Raises:
            Diverged, OutOfMemory, Stopped: as the train loop.
        """
        if self._snapshot:
            named = dict(self.language.model.named_parameters())
            stored = self._snapshot.files["weights"]
            load_weights({name: named[name] for name in stored}, stored)
        if self.plan.head_epochs and "head" not in self.finished:
            self.warm_up_head()
        self.train_all()

    def warm_up_head(self) -> None:
        """Train a new head alone: its first large errors would otherwise go through the base and destroy what it knows."""
        self._train("head", self.language.head_parameters(), self.plan.head_epochs, self.plan.head_lr)

    def train_all(self) -> None:
        """Train every weight, the token embeddings once although the decoder is tied to them."""
        named = dict(self.language.model.named_parameters())
        self._train("pretrain", named, self.plan.epochs, self.plan.learning_rate)
        broken = [name for name, parameter in named.items() if not torch.isfinite(parameter).all()]
        if broken:
            raise Diverged(f"DIVERGED weights hold NaN or infinity: {', '.join(broken[:3])} — lower the rate")

    def figures(self, loss: float, blocks_per_second: float) -> dict[str, float]:
        """Return perplexity where the loss is that of tokens alone, tokens a second and, where known, model FLOPs utilisation."""
        blocks, numerics = self.examples.blocks, self.run.numerics
        found = {"perplexity": perplexity(loss)} if self.language.tokens_alone else {}
        found["tokens_per_second"] = blocks_per_second * blocks.tokens / len(blocks)
        most = ceiling(str(numerics["device_name"]), str(numerics["precision"]))
        return found if most is None else found | {"flops_utilisation": blocks_per_second * self._flops / most}

    def _train(self, name: str, trained: dict[str, nn.Parameter], epochs: int, rate: float) -> None:
        for parameter in self.language.model.parameters():
            parameter.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        phase = self._phase(name, trained, epochs, rate)
        state = state_of(self._snapshot, phase, self.plan.micro_batch)
        before, first, started = sum(entry["ticks"] for entry in self.finished.values()), state.step, time.monotonic()

        def save(epoch_end: bool) -> None:
            def snapshot() -> Snapshot:
                return snapshot_of(name, files_of(phase, state, {}), self.finished, self.run.numerics, state, **self._kept)

            self._checkpoints.poll(before + state.step, snapshot, epoch_end=epoch_end)

        train(phase, state, self.run, save)
        self._set_modes(False)
        self.run.numerics["micro_batch"] = state.micro_batch
        self.finished[name] = {"ticks": state.step, "history": state.history}
        if state.step > first:
            self.blocks_per_second = (state.step - first) * self.plan.batch_size / max(time.monotonic() - started, 1e-9)

    def _phase(self, name: str, trained: dict[str, nn.Parameter], epochs: int, rate: float) -> Phase:
        before = sum(len(entry["history"]) for entry in self.finished.values())

        def on_epoch(epoch: int) -> None:
            self.examples.epoch = before + epoch  # masks of the second phase are new ones too

        return Phase(
            name=name,
            train=self.examples,
            validation=self.validation,
            trained=trained,
            optimizer=torch.optim.AdamW(weight_groups(trained, rate, self.spec.weight_decay), fused=True),
            epochs=epochs,
            batch_size=self.plan.batch_size,
            seed=self.spec.seed,
            warmup=self.spec.warmup,
            max_grad_norm=self.spec.max_grad_norm,
            patience=None,
            set_modes=self._set_modes,
            on_epoch=on_epoch,
            figures=self.figures,
        )

    def _set_modes(self, training: bool) -> None:
        model, numerics = self.language.model, self.run.numerics
        for part in self.language.parts:
            attention = quickest_attention(part.config, numerics["device"], numerics["precision"], training=training)
            part.set_attn_implementation(attention)
        model.train(training)
        if not any(parameter.requires_grad for parameter in model.base_model.parameters()):
            model.base_model.eval()  # a frozen base runs without dropout
