"""A strategy as phases in order: features, head, fine_tune; each resumes from its own position."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfer_learning.blocks import freezing, probe, state_cache
from transfer_learning.blocks.batching import MULTIPLE, Tokens
from transfer_learning.blocks.checkpoint import Checkpoints, Snapshot
from transfer_learning.blocks.defaults import Plan
from transfer_learning.blocks.extraction import arithmetic, batches_of, extract
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.blocks.state_cache import StateCache
from transfer_learning.blocks.train_loop import Examples, Phase, State, evaluate, load_weights, shrinkage, train, weight_groups
from transfer_learning.blocks.vocabulary import keep_used
from transfer_learning.specs import FineTuneSpec
from transfer_learning.stage import Run


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
    ) -> None:
        self.classifier, self.data, self.spec, self.plan, self.run = classifier, data, spec, plan, run
        self._checkpoints, self._snapshot, self._scratch = checkpoints, snapshot, scratch
        self._states: StateCache | None = None
        """Output of the frozen blocks behind which training starts, where it pays to keep it."""
        self._block = freezing.first_trained_block(classifier, spec.unfreeze_blocks)
        self.finished: dict[str, dict[str, Any]] = dict(snapshot.facts["finished"]) if snapshot else {}
        """Ticks, history and best epoch of each finished phase."""
        self._device = str(run.numerics["device"])
        self._poll: Callable[[], None] = lambda: None
        """Writes a checkpoint of the newest phase when one is due; raises ``Stopped`` when asked to stop."""

    def run_phases(self) -> None:
        """Run what is left of the strategy.

        Raises:
            Diverged, OutOfMemory, Stopped: as the train loop.
        """
        whole, words = self.data, None
        if self.plan.strategy != "linear_probe" and self._block == 0:
            words = keep_used(self.classifier.model.get_input_embeddings(), whole.tokens)
        if words is not None:
            self.data = dataclasses.replace(whole, tokens=words.renumber(whole.tokens))
        self._run_phases()
        if words is not None:
            words.restore(self.finished["fine_tune"]["shrinkage"])
            self.data = whole

    def _run_phases(self) -> None:
        if self._snapshot and "weights" in self._snapshot.files:
            named = dict(self.classifier.named_parameters())
            stored = self._snapshot.files["weights"]
            load_weights({name: named[name] for name in stored}, stored)
        if self.plan.strategy == "probe_then_fine_tune":
            self._states = self._store_states()
        if self.plan.strategy != "full" and "head" not in self.finished:
            self._train_head()
        if self.plan.strategy != "linear_probe":
            self._fine_tune()

    def score(self) -> dict[str, float]:
        """Return ``train_loss`` of the last epoch, or of the fitted head, and the figures of the validation split."""
        last = list(self.finished.values())[-1]
        if "scores" in last:
            return dict(last["scores"])
        self.classifier.eval()
        losses = {"train_loss": last["history"][-1]["train_loss"]}
        return losses | (self._score("validation", self._on_rows()) if self.data.validation else {})

    def _score(self, split: str, examples: Callable[[range], Examples]) -> dict[str, float]:
        rows = range(self.data.rows) if split == "train" else range(self.data.rows, len(self.data.tokens))
        found = evaluate(examples(rows), self._poll)
        return {f"{split}_{name}": value for name, value in found.items()}

    def _store_states(self) -> StateCache | None:
        """Compute the output of the frozen blocks once for each row, where that pays, and say why or why not."""
        tokens, width = self.data.tokens, self.classifier.backbone.width
        choice = state_cache.choose(
            self.spec,
            block=self._block,
            passes=self.plan.epochs + ("head" not in self.finished),
            elements=len(tokens.ids) * width,
            precision=str(self.run.numerics["precision"]),
            folder=self._scratch,
            before=self._snapshot.facts["numerics"].get("state_cache") if self._snapshot else None,
        )
        self.run.numerics["state_cache"] = choice.dtype or "off"
        self.run.progress(phase="frozen blocks", stored=choice.dtype or "no", reason=choice.reason)
        if choice.dtype is None:
            return None
        states = StateCache(tokens, width, choice.dtype, self._scratch)
        freezing.freeze_below(self.classifier, self._block)
        self.classifier.eval()

        def compute(rows: Sequence[int]) -> torch.Tensor:
            self._checkpoints.end_if_asked()
            return self.classifier.backbone.run(tokens.batch(rows, self._device), until=self._block - 1)

        with self._arithmetic():
            states.fill(compute, batches_of(tokens, self._device))
        return states

    def _train_head(self) -> None:
        trained = freezing.freeze_below(self.classifier, len(self.classifier.backbone.blocks))
        features = self._features()
        if self.plan.to_convergence:
            self._fit_head(features)
            return
        phase = self._phase("head", trained, self._on_features(features), self.plan.head_epochs)
        self._train(phase, {"features": {"train": features}})

    def _features(self) -> torch.Tensor:
        """Return the features of all rows: what was given, or what the checkpoint has, and the rest computed."""
        if self.data.features is not None:
            return self.data.features
        self.classifier.eval()
        stored = self._snapshot.files.get("features", {}) if self._snapshot else {}
        if "train" in stored:
            return stored["train"]
        batches = batches_of(self.data.tokens, self._device)

        def poll(number: int, so_far: Callable[[], torch.Tensor]) -> None:
            self.run.progress(phase="features", step=number, steps=len(batches))
            self._checkpoints.poll(number, lambda: self._snapshot_of("features", {"features": {"partial": so_far()}}))

        with self._arithmetic():
            features = extract(self._features_of, batches, poll, stored.get("partial"))
        self.finished["features"] = {"ticks": len(batches)}
        return features

    def _fit_head(self, features: torch.Tensor) -> None:
        head = self.classifier.pooled_head
        assert head is not None
        rows = self.data.rows
        fitted = probe.fit(
            features[:rows],
            self.data.targets[:rows],
            head.linear.out_features,
            classifier=self.spec.classifier,
            balanced=self.spec.class_weights == "balanced",
            seed=self.spec.seed,
            poll=lambda: self._checkpoints.poll(
                self._ticks(), lambda: self._snapshot_of("features", {"features": {"train": features}})
            ),
        )
        load_weights(dict(head.linear.named_parameters()), fitted)
        examples = self._on_features(features)
        scores = {"train_loss": self._score("train", examples)["train_loss"]}
        scores |= self._score("validation", examples) if self.data.validation else {}
        self.finished["head"] = {"ticks": 1, "history": [], "best_epoch": 0, "scores": scores}
        weights = {name: p.detach() for name, p in self.classifier.head_parameters().items()}
        self._poll = lambda: self._checkpoints.poll(self._ticks(), lambda: self._snapshot_of("head", {"weights": weights}))
        self._poll()

    def _fine_tune(self) -> None:
        trained = freezing.freeze_below(self.classifier, self._block)
        phase = self._phase("fine_tune", trained, self._on_rows(), self.plan.epochs)
        self._train(phase, {})
        finished = self.finished["fine_tune"]
        kept = (finished["best_epoch"] or len(finished["history"])) * phase.per_epoch
        finished["shrinkage"] = shrinkage(phase, kept, self.plan.backbone_lr, self.spec.weight_decay)

    def _train(self, phase: Phase, extra: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        state = self._state(phase)
        before = self._ticks()

        def save(epoch_end: bool) -> None:
            best = before + state.best_epoch * phase.per_epoch if state.best_epoch else None
            tick = before + state.step
            self._checkpoints.poll(
                tick, lambda: self._snapshot_of(phase.name, files_of(phase, state, extra), state), epoch_end=epoch_end, best=best
            )

        self._poll = lambda: save(False)
        train(phase, state, self.run, save)
        self._set_modes(False)
        self.run.numerics["micro_batch"] = state.micro_batch
        self.finished[phase.name] = {"ticks": state.step, "history": state.history, "best_epoch": state.best_epoch}

    def _state(self, phase: Phase) -> State:
        """Return the state to start from; the optimizer gets its own from the same checkpoint."""
        if self._snapshot is None or self._snapshot.facts["phase"] != phase.name or "state" not in self._snapshot.facts:
            return State(micro_batch=self.plan.micro_batch)
        stored = dict(self._snapshot.facts["state"])
        stored["micro_batch"] = min(stored["micro_batch"], self.plan.micro_batch)
        for key, value in self._snapshot.files["optimizer"].items():
            name, _, slot = key.rpartition("/")
            parameter = phase.trained[name]
            phase.optimizer.state[parameter][slot] = value if slot == "step" else value.to(parameter.device)
        return State(**stored, best=dict(self._snapshot.files.get("best", {})))

    def _snapshot_of(self, phase: str, files: Mapping[str, Mapping[str, torch.Tensor]], state: State | None = None) -> Snapshot:
        facts: dict[str, Any] = {"phase": phase, "finished": self.finished, "numerics": dict(self.run.numerics)}
        if state is not None:
            facts["state"] = {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != "best"}
        return Snapshot(files, facts)

    def _ticks(self) -> int:
        return sum(int(entry["ticks"]) for entry in self.finished.values())

    def _phase(self, name: str, trained: dict[str, nn.Parameter], examples: Callable[[range], Examples], epochs: int) -> Phase:
        rows, spec = self.data.rows, self.spec
        head = {key: parameter for key, parameter in trained.items() if key in self.classifier.head_parameters()}
        backbone = {key: parameter for key, parameter in trained.items() if key not in head}
        groups = weight_groups(backbone, self.plan.backbone_lr, spec.weight_decay)
        groups += weight_groups(head, self.plan.head_lr, spec.weight_decay)
        return Phase(
            name=name,
            train=examples(range(rows)),
            validation=examples(range(rows, len(self.data.tokens))) if self.data.validation else None,
            trained=trained,
            optimizer=torch.optim.AdamW(groups, fused=True),
            epochs=epochs,
            batch_size=self.plan.batch_size,
            seed=spec.seed,
            warmup=spec.warmup,
            max_grad_norm=spec.max_grad_norm,
            patience=spec.patience if spec.early_stopping and self.data.validation else None,
            set_modes=self._set_modes,
        )

    def _set_modes(self, training: bool) -> None:
        # The fused attention of the processor knows no dropout, and what stands in for it takes 1.6 times as long as plain
        # products (articles of 256 tokens, two cores); without dropout, or on an accelerator, the fused one is faster.
        plain = training and self._device == "cpu" and self.classifier.backbone.attention_dropout > 0
        self.classifier.model.set_attn_implementation("eager" if plain else "sdpa")
        if training:
            freezing.set_modes(self.classifier)
        else:
            self.classifier.eval()

    def _features_of(self, rows: Sequence[int]) -> torch.Tensor:
        """Return what the head sees of some rows, from the stored states where there are any."""
        # In training a batch may pad to its longest row: what a row gives does depend on the others there.
        multiple = 1 if torch.is_grad_enabled() and self._device == "cpu" else MULTIPLE
        if self._states is None:
            return self.classifier.features(self.data.tokens.batch(rows, self._device, multiple))
        return self.classifier.features_from(*self._states.batch(rows, self._device, multiple), self._block)

    def _on_rows(self) -> Callable[[range], Examples]:
        lengths = self.data.tokens.lengths

        def logits(part: range, rows: Sequence[int]) -> torch.Tensor:
            with self._arithmetic():
                return self.classifier.head.classify(self._features_of([part[row] for row in rows]))

        return lambda part: self._examples(part, lambda rows: logits(part, rows), lengths)

    def _on_features(self, features: torch.Tensor) -> Callable[[range], Examples]:
        features = features.to(self._device)

        def logits(part: range, rows: Sequence[int]) -> torch.Tensor:
            with self._arithmetic():
                return self.classifier.head.classify(features[[part[row] for row in rows]])

        return lambda part: self._examples(part, lambda rows: logits(part, rows), [1] * len(features))

    def _examples(self, part: range, logits: Callable[[Sequence[int]], torch.Tensor], lengths: list[int]) -> Examples:
        weights = self.data.class_weights
        return Examples(
            logits,
            [lengths[row] for row in part],
            self.data.targets[part.start : part.stop].to(self._device),
            None if weights is None else weights.to(self._device),
        )

    def _arithmetic(self) -> AbstractContextManager[object]:
        return arithmetic(self._device, str(self.run.numerics["precision"]))


def files_of(
    phase: Phase, state: State, extra: Mapping[str, Mapping[str, torch.Tensor]]
) -> dict[str, Mapping[str, torch.Tensor]]:
    """Return the tensors of a checkpoint by file: the weights that train, the optimizer's state, the best weights, features."""
    slots = {
        f"{name}/{slot}": value
        for name, parameter in phase.trained.items()
        for slot, value in phase.optimizer.state.get(parameter, {}).items()
    }
    weights = {name: parameter.detach() for name, parameter in phase.trained.items()}
    return {"weights": weights, "optimizer": slots, **({"best": state.best} if state.best else {}), **extra}
