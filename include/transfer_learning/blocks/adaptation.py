"""A strategy as phases in order: features, head, blocks from the top, fine_tune; each resumes from its own position."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from transfer_learning.blocks import freezing, numerics, probe, state_cache
from transfer_learning.blocks.checkpoint import Checkpoints, Snapshot
from transfer_learning.blocks.defaults import Plan
from transfer_learning.blocks.examples import Data, Forward
from transfer_learning.blocks.extraction import extract
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.passes import Passes, batches_of
from transfer_learning.blocks.phases import files_of, snapshot_of, state_of
from transfer_learning.blocks.schedules import SCHEDULES
from transfer_learning.blocks.state_cache import StateCache
from transfer_learning.blocks.train_loop import Examples, Phase, State, evaluate, load_weights, shrinkage, train, weight_groups
from transfer_learning.blocks.vocabulary import keep_used
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import Run


class Adaptation:
    """Runs the phases of one strategy.

    Args:
        classifier: on its device.
        data: rows.
        spec: the settings as given.
        plan: the same with nothing left open.
        run: hears about progress; its numerics are saved in every checkpoint.
        checkpoints: where to write.
        snapshot: where to go on, or None.
        scratch: a folder whose disk takes the output of frozen blocks.
        kept: what every checkpoint keeps beside weights and position, as JSON values.
    """

    def __init__(
        self,
        classifier: TextClassifier,
        data: Data,
        spec: FineTuneSpec,
        plan: Plan,
        run: Run,
        checkpoints: Checkpoints,
        snapshot: Snapshot | None,
        scratch: Path,
        kept: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.classifier, self.spec, self.plan, self.run = classifier, spec, plan, run
        self._checkpoints, self._snapshot, self._scratch, self._kept = checkpoints, snapshot, scratch, kept
        self._block = freezing.lowest_block(classifier, spec)
        self.forward = Forward(classifier, data, self._block, str(run.numerics["device"]), str(run.numerics["precision"]))
        self.finished: dict[str, dict[str, Any]] = dict(snapshot.facts["finished"]) if snapshot else {}
        """Ticks, history and best epoch of each finished phase."""
        self._poll: Callable[[], None] = lambda: None
        """Writes a checkpoint of the newest phase when one is due; raises ``Stopped`` when asked to stop."""

    def run_phases(self) -> None:
        """Run what is left of the strategy.

        Raises:
            Diverged, OutOfMemory, Stopped: as the train loop.
        """
        whole, words = self.forward.data, None
        if self._block == 0:
            words = keep_used(self.classifier.model.get_input_embeddings(), whole.tokens)
        if words is not None:
            self.forward.data = dataclasses.replace(whole, tokens=words.renumber(whole.tokens))
        self._run_phases()
        if words is not None:
            words.restore(self.finished["fine_tune"]["shrinkage"])
            self.forward.data = whole

    def _run_phases(self) -> None:
        if self._snapshot and "weights" in self._snapshot.files:
            named = dict(self.classifier.named_parameters())
            stored = self._snapshot.files["weights"]
            load_weights({name: named[name] for name in stored}, stored)
        if self.plan.strategy not in ("full", "linear_probe"):
            self.forward.states = self._store_states()
        if self.plan.has_head_phase and "head" not in self.finished:
            self._train_head()
        if self.plan.strategy != "linear_probe":
            for stage in self._stages():
                self._train_blocks(stage)

    def _stages(self) -> list[freezing.Stage]:
        blocks = len(self.classifier.backbone.blocks)
        return freezing.stages(self.plan.strategy, blocks, self._block, self.plan.epochs)

    def score(self) -> dict[str, float]:
        """Return ``train_loss`` of the last epoch, or of the fitted head, and the figures of the validation split."""
        last = list(self.finished.values())[-1]
        if "scores" in last:
            return dict(last["scores"])
        self.forward.set_modes(False)
        losses = {"train_loss": last["history"][-1]["train_loss"]}
        return losses | (self._score("validation", self.forward.on_rows) if self.forward.data.validation else {})

    def _score(self, split: str, examples: Callable[[range], Examples]) -> dict[str, float]:
        rows = range(self.forward.data.rows) if split == "train" else range(self.forward.data.rows, len(self.forward.data.tokens))
        found = evaluate(examples(rows), self._poll)
        return {f"{split}_{name}": value for name, value in found.items()}

    def _store_states(self) -> StateCache | None:
        """Compute the output of the frozen blocks once for each row, where that pays, and say why or why not."""
        tokens, width = self.forward.data.tokens, self.classifier.backbone.width
        stored = self._snapshot.facts["numerics"] if self._snapshot else {}
        choice = state_cache.choose(
            self.spec,
            block=self._block,
            passes=sum(stage.epochs for stage in self._stages()) + (self.plan.has_head_phase and "head" not in self.finished),
            elements=len(tokens.ids) * width,
            precision=str(self.run.numerics["precision"]),
            folder=self._scratch,
            before=stored.get("state_cache"),
        )
        self.run.numerics["state_cache"] = choice.dtype or "off"
        numerics.mark(("state_cache",), stored, self.run, self.spec.resume_elsewhere)
        self.run.progress(phase="frozen blocks", stored=choice.dtype or "no", reason=choice.reason)
        if choice.dtype is None:
            return None
        states = StateCache(tokens, width, choice.dtype, self._scratch)
        freezing.freeze_below(self.classifier, self._block)
        self.forward.set_modes(False)

        def compute(rows: Sequence[int]) -> torch.Tensor:
            return self.classifier.backbone.run(tokens.batch(rows, self.forward.device), until=self._block - 1)

        passes = Passes(self.forward.device, self.forward.arithmetic)  # what the same blocks give where nothing is stored
        states.fill(compute, batches_of(tokens, self.forward.device), passes, self._checkpoints.end_if_asked)
        return states

    def _train_head(self) -> None:
        trained = freezing.freeze_below(self.classifier, len(self.classifier.backbone.blocks))
        features = self._features()
        if self.plan.to_convergence:
            self._fit_head(features)
            return
        phase = self._phase("head", trained, self.forward.on_features(features), self.plan.head_epochs)
        self._train(phase, {"features": {"train": features}})

    def _features(self) -> torch.Tensor:
        """Return the features of all rows: what was given, or what the checkpoint has, and the rest computed."""
        if self.forward.data.features is not None:
            return self.forward.data.features
        self.forward.set_modes(False)
        stored = self._snapshot.files.get("features", {}) if self._snapshot else {}
        if "train" in stored:
            return stored["train"]
        batches = batches_of(self.forward.data.tokens, self.forward.device)

        def poll(number: int, so_far: Callable[[], torch.Tensor]) -> None:
            self.run.progress(phase="features", step=number, steps=len(batches))
            if number == 0:
                self._checkpoints.end_if_asked()
                return
            self._checkpoints.poll(number, lambda: self._snapshot_of("features", {"features": {"partial": so_far()}}))

        with self.forward.frozen_passes() as passes:
            features = extract(self.forward.features, batches, passes, poll, stored.get("partial"))
        self.finished["features"] = {"ticks": len(batches)}
        return features

    def _fit_head(self, features: torch.Tensor) -> None:
        head = self.classifier.pooled_head
        assert head is not None
        rows = self.forward.data.rows
        fitted = probe.fit(
            features[:rows],
            self.forward.data.targets[:rows],
            head.linear.out_features,
            classifier=self.spec.classifier,
            balanced=self.spec.class_weights == "balanced",
            seed=self.spec.seed,
            poll=lambda: self._checkpoints.poll(
                self._ticks(), lambda: self._snapshot_of("features", {"features": {"train": features}})
            ),
        )
        load_weights(dict(head.linear.named_parameters()), fitted)
        examples = self.forward.on_features(features)
        scores = {"train_loss": self._score("train", examples)["train_loss"]}
        scores |= self._score("validation", examples) if self.forward.data.validation else {}
        self.finished["head"] = {"ticks": 1, "history": [], "best_epoch": 0, "scores": scores}
        weights = {name: p.detach() for name, p in self.classifier.head_parameters().items()}
        self._poll = lambda: self._checkpoints.poll(self._ticks(), lambda: self._snapshot_of("head", {"weights": weights}))
        self._poll()

    def _train_blocks(self, stage: freezing.Stage) -> None:
        last = stage.block == self._block
        if stage.name in self.finished and not last:
            return
        trained = freezing.freeze_below(self.classifier, stage.block)
        phase = self._phase(stage.name, trained, self.forward.on_rows, stage.epochs)
        with freezing.still(self.classifier):
            self._train(phase, {})
        finished = self.finished[stage.name]
        if last:
            kept = (finished["best_epoch"] or len(finished["history"])) * phase.per_epoch
            finished["shrinkage"] = shrinkage(phase, kept, self._peak(self._block), self.spec.weight_decay)

    def _train(self, phase: Phase, extra: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        state = state_of(self._snapshot, phase, self.plan.micro_batch)
        before = self._ticks()

        def save(epoch_end: bool) -> None:
            best = before + state.best_epoch * phase.per_epoch if state.best_epoch else None
            tick = before + state.step
            self._checkpoints.poll(
                tick, lambda: self._snapshot_of(phase.name, files_of(phase, state, extra), state), epoch_end=epoch_end, best=best
            )

        self._poll = lambda: save(False)
        train(phase, state, self.run, save)
        self.forward.set_modes(False)
        self.run.numerics["micro_batch"] = state.micro_batch
        self.finished[phase.name] = {"ticks": state.step, "history": state.history, "best_epoch": state.best_epoch}

    def _snapshot_of(self, phase: str, files: Mapping[str, Mapping[str, torch.Tensor]], state: State | None = None) -> Snapshot:
        return snapshot_of(phase, files, self.finished, self.run.numerics, state, **self._kept)

    def _ticks(self) -> int:
        return sum(int(entry["ticks"]) for entry in self.finished.values())

    def _phase(self, name: str, trained: dict[str, nn.Parameter], examples: Callable[[range], Examples], epochs: int) -> Phase:
        data, spec = self.forward.data, self.spec
        return Phase(
            name=name,
            train=examples(range(data.rows)),
            validation=examples(range(data.rows, len(data.tokens))) if data.validation else None,
            trained=trained,
            optimizer=torch.optim.AdamW(self._groups(trained), fused=True),
            epochs=epochs,
            batch_size=self.plan.batch_size,
            seed=spec.seed,
            warmup=spec.warmup,
            max_grad_norm=spec.max_grad_norm,
            patience=spec.patience if spec.early_stopping and data.validation else None,
            set_modes=self.forward.set_modes,
            schedule=SCHEDULES[spec.schedule],
        )

    def _groups(self, trained: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
        """Return the optimizer's groups: the head, and the blocks by their rates."""
        head, blocks = self.classifier.head_parameters(), freezing.block_numbers(self.classifier.backbone)
        by_rate: dict[float, dict[str, nn.Parameter]] = {}
        for name, parameter in trained.items():
            if name not in head:
                by_rate.setdefault(self._peak(blocks[id(parameter)]), {})[name] = parameter
        groups = [group for peak, named in by_rate.items() for group in weight_groups(named, peak, self.spec.weight_decay)]
        named = {name: parameter for name, parameter in trained.items() if name in head}
        return groups + weight_groups(named, self.plan.head_lr, self.spec.weight_decay)

    def _peak(self, block: int) -> float:
        """Return a block's peak rate: ``layer_decay`` of that above it."""
        return self.plan.backbone_lr * self.plan.layer_decay ** (len(self.classifier.backbone.blocks) - 1 - block)
