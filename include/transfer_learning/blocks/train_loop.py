"""The one training loop. Order and randomness are functions of seed and position, so that a resumed run ends bit-identical."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from transfer_learning.blocks.batching import epoch_batches, length_batches
from transfer_learning.blocks.devices import to_device
from transfer_learning.blocks.dropout import quick_dropout
from transfer_learning.blocks.memory import in_halves
from transfer_learning.blocks.schedules import Schedule, warmup_and_decay
from transfer_learning.blocks.waiting import giving_way
from transfer_learning.errors import Diverged, OutOfMemory, is_out_of_memory
from transfer_learning.stage import Run

HALVINGS = 4
"""How often the micro-batch is halved before the run ends with OutOfMemory."""

EVALUATION_TOKENS = {"cpu": 4096, "cuda": 16_384}
"""Padded tokens to one forward pass of the validation, by device."""

REPORT_SECONDS = 1.0


class Trainable(Protocol):
    """What a phase trains on or is judged by."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""

    def losses(self, rows: Sequence[int]) -> Sequence[torch.Tensor]:
        """Return the sum of each kind of loss over some rows; most have one kind."""

    def weights(self, rows: Sequence[int]) -> Sequence[float]:
        """Return what each of these sums is divided by over an effective batch, such as the number of targets."""

    def evaluate(self, poll: Callable[[], None]) -> dict[str, float]:
        """Return ``loss``, the mean, and what else tells how good the model is; ``poll`` is called between batches."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Rows with targets, and how a model turns them into logits."""

    logits: Callable[[Sequence[int]], torch.Tensor]
    """Row indices -> (rows, labels)."""
    lengths: list[int]
    targets: torch.Tensor
    """Class numbers, int64 (rows,), on the CPU."""
    class_weights: torch.Tensor | None = None
    """fp32 (labels,), on the CPU."""

    def losses(self, rows: Sequence[int]) -> tuple[torch.Tensor]:
        """Return the sum of the rows' cross-entropies, each times its class weight."""
        return (self.cross_entropy(self.logits(rows).float(), rows),)

    def cross_entropy(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Return the sum of the cross-entropies of some rows' logits."""
        device = logits.device.type
        weights = None if self.class_weights is None else to_device(self.class_weights, device)
        return functional.cross_entropy(logits, to_device(self.targets[list(rows)], device), weight=weights, reduction="sum")

    def weights(self, rows: Sequence[int]) -> tuple[float]:
        """Return what a sum of losses is divided by: the number of targets, or the sum of their class weights."""
        if self.class_weights is None:
            return (float(len(rows)),)
        return (float(self.class_weights[self.targets[list(rows)]].sum()),)

    def evaluate(self, poll: Callable[[], None]) -> dict[str, float]:
        """Return mean ``loss`` and ``accuracy``."""
        return evaluate(self, poll)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """What trains, on what, for how long."""

    name: str
    train: Trainable
    validation: Trainable | None
    trained: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    """Every group carries its peak rate as ``peak``."""
    epochs: int
    batch_size: int
    seed: int
    warmup: float
    """Share of the steps with rising rate."""
    max_grad_norm: float
    patience: int | None
    """None trains all epochs and keeps the last."""
    set_modes: Callable[[bool], None]
    """True before training, False before evaluation."""
    schedule: Schedule = warmup_and_decay
    on_epoch: Callable[[int], None] = lambda _: None
    """Told the number of the epoch, from 0, before its first step in this process: what is drawn anew in each follows from it."""
    figures: Callable[[float, float], Mapping[str, float]] = lambda _loss, _pace: {}
    """(loss, rows per second) -> further figures to report."""

    @property
    def per_epoch(self) -> int:
        """Optimizer steps to an epoch."""
        return -(-len(self.train.lengths) // self.batch_size)


@dataclasses.dataclass(kw_only=True)
class State:
    """Where a phase stands; with the weights and the optimizer's state this is all that a resumed run needs."""

    micro_batch: int
    halvings: int = 0
    step: int = 0
    """Optimizer steps done; the position in the data follows from it."""
    loss: float = 0.0
    """Sum of losses in this epoch so far."""
    weight: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """One entry for each finished epoch."""
    best_epoch: int = 0
    """Counted from 1; 0 before the first validation."""
    worse: int = 0
    """Epochs since the best one."""
    best: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """The weights of the best epoch."""


@giving_way()
def train(phase: Phase, state: State, run: Run, save: Callable[[bool], None]) -> None:
    """Train a phase from ``state`` to its end and leave the best epoch's weights in place.

    Args:
        phase: what trains.
        state: where it stands; changed in place.
        run: hears about progress.
        save: called between any two steps and between evaluation batches; ``True`` at the end of an epoch. It writes a checkpoint
            when one is due, and raises ``Stopped`` when the job was asked to stop.

    Raises:
        Diverged: NaN or infinity in a loss or a gradient, within the step that made it.
        OutOfMemory: also at a sixteenth of the first micro-batch.
    """
    steps, started, first = phase.epochs * phase.per_epoch, time.monotonic(), state.step
    batches: list[list[int]] = []
    reported = 0.0
    rows_done = 0
    phase.set_modes(True)
    while True:
        save(False)
        if state.step // phase.per_epoch > len(state.history):
            _close_epoch(phase, state, run, save)
            phase.set_modes(True)
            save(True)
        if state.step == steps or (phase.patience is not None and state.worse >= phase.patience):
            break
        epoch, place = divmod(state.step, phase.per_epoch)
        if not batches or place == 0:
            phase.on_epoch(epoch)
            batches = epoch_batches(phase.train.lengths, phase.batch_size, phase.seed, epoch)
        rate = phase.schedule(state.step, steps, phase.warmup)
        for group in phase.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        loss, weight = optimizer_step(phase, state, batches[place])
        state.step, state.loss, state.weight = state.step + 1, state.loss + loss, state.weight + weight
        rows_done += len(batches[place])
        now = time.monotonic()
        if now - reported >= REPORT_SECONDS or state.step == steps:
            reported, pace = now, (now - started) / (state.step - first)
            rows_per_second = rows_done / max(now - started, 1e-9)
            run.progress(
                phase=phase.name, step=state.step, steps=steps, epoch=epoch + 1, loss=loss / weight,
                lr=max(group["lr"] for group in phase.optimizer.param_groups),
                rows_per_second=rows_per_second, eta=pace * (steps - state.step), micro_batch=state.micro_batch,
                **phase.figures(loss / weight, rows_per_second),
            )  # fmt: skip
    if state.best_epoch and state.best_epoch != len(state.history):
        load_weights(phase.trained, state.best)


def optimizer_step(phase: Phase, state: State, rows: list[int]) -> tuple[float, float]:
    """Do one step on one effective batch, at half the micro-batch when memory runs out; return loss sum and weight.

    Raises:
        Diverged, OutOfMemory: as ``train``.
    """
    device = next(iter(phase.trained.values())).device.type
    while True:
        try:
            phase.optimizer.zero_grad(set_to_none=True)
            _seed(phase, state, device)
            with quick_dropout(device):
                loss, weight = accumulate(phase, state, rows)
            norm = _clip(phase)
            if not math.isfinite(norm):
                raise Diverged(f"DIVERGED {phase.name}, step {state.step + 1}: the gradient is {norm} — lower the rate")
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            phase.optimizer.step()  # its memory does not depend on the micro-batch, and half a step cannot be done again
            return loss, weight
        # Outside the handler: its traceback would keep the tensors of the failed pass alive.
        halve(phase, state)


def _seed(phase: Phase, state: State, device: str) -> None:
    """Make randomness a function of (seed, step): dropout is the same after a resume."""
    seed = int(np.random.SeedSequence([phase.seed, state.step]).generate_state(1)[0])
    # torch.manual_seed also looks for each kind of accelerator: 1 ms of a step of 65.
    torch.default_generator.manual_seed(seed)
    if device == "cuda":
        torch.cuda.manual_seed(seed)


def _clip(phase: Phase) -> float:
    """Clip the gradients to the phase's norm and return the norm they had; those within it are not touched."""
    gradients = [parameter.grad for parameter in phase.trained.values() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    size = float(norm)  # an accelerator is waited for once, and not at each comparison
    if size > phase.max_grad_norm:
        nn.utils.clip_grads_with_norm_(phase.trained.values(), phase.max_grad_norm, norm)
    return size


def accumulate(phase: Phase, state: State, rows: list[int]) -> tuple[float, float]:
    """Add up the gradient of one effective batch, whatever the micro-batch: for each kind of loss its sum / sum of weights.

    Returns:
        The sum of the first kind, with all others in proportion, and its weight: their quotient is the batch's loss.
    """
    weights = phase.train.weights(rows)
    total, weight = 0.0, weights[0]
    for start in range(0, len(rows), state.micro_batch):
        loss = in_proportion(phase.train.losses(rows[start : start + state.micro_batch]), weights)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"DIVERGED {phase.name}, step {state.step + 1}: the loss is {value} — lower the rate")
        (loss / weight).backward()  # type: ignore[no-untyped-call]
        total += value
    return total, weight


def in_proportion(losses: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Return what, divided by the first weight, is the sum of every kind of loss divided by its own."""
    found, *others = losses
    for loss, weight in zip(others, weights[1:], strict=True):
        found = found + loss * (weights[0] / weight)
    return found


def halve(phase: Phase, state: State) -> None:
    """Go on with half the micro-batch.

    Raises:
        OutOfMemory: after four halvings, or with a single row.
    """
    if state.halvings == HALVINGS or state.micro_batch == 1:
        raise OutOfMemory(
            f"OUT_OF_MEMORY {phase.name}, step {state.step + 1}: a micro-batch of {state.micro_batch} rows does not fit "
            "— lower max_length or use a smaller base model"
        )
    state.halvings, state.micro_batch = state.halvings + 1, max(1, state.micro_batch // 2)
    phase.optimizer.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def evaluate(examples: Examples, poll: Callable[[], None]) -> dict[str, float]:
    """Return mean ``loss`` and ``accuracy``; ``poll`` is called between batches."""
    loss = weight = 0.0
    right = 0
    with torch.inference_mode():
        for rows in evaluation_batches(examples.lengths):
            poll()
            logits = in_halves(examples.logits, rows).float()
            loss += float(examples.cross_entropy(logits, rows))
            weight += examples.weights(rows)[0]
            right += int((logits.argmax(dim=-1).cpu() == examples.targets[rows]).sum())
    return {"loss": loss / weight, "accuracy": right / len(examples.lengths)}


def evaluation_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows of each batch of a validation."""
    return length_batches(lengths, EVALUATION_TOKENS["cuda" if torch.cuda.is_available() else "cpu"])


def load_weights(trained: Mapping[str, nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the weights of the same names."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(values[name])


def shrinkage(phase: Phase, steps: int, peak: float, weight_decay: float) -> float:
    """Return what weight decay alone makes of a weight without a gradient in the first steps of a phase, as a share."""
    every = phase.epochs * phase.per_epoch
    return math.prod(1 - peak * phase.schedule(step, every, phase.warmup) * weight_decay for step in range(steps))


def weight_groups(named: Mapping[str, nn.Parameter], peak: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW groups: weight decay on matrices, none on biases and normalisation weights, which are the vectors."""
    matrices = [parameter for parameter in named.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in named.values() if parameter.ndim <= 1]
    groups = ((matrices, weight_decay), (vectors, 0.0))
    return [{"params": params, "lr": peak, "peak": peak, "weight_decay": decay} for params, decay in groups if params]


def _close_epoch(phase: Phase, state: State, run: Run, save: Callable[[bool], None]) -> None:
    """Enter the epoch into the history; with a validation split, evaluate and remember the best."""
    epoch = {"train_loss": state.loss / state.weight}
    if phase.validation is not None:
        phase.set_modes(False)
        found = phase.validation.evaluate(lambda: save(False))
        if not math.isfinite(found["loss"]):
            raise Diverged(f"DIVERGED {phase.name}, step {state.step}: the validation loss is {found['loss']} — lower the rate")
        epoch |= {f"validation_{name}": value for name, value in found.items()}
    state.history.append(epoch)
    state.loss = state.weight = 0.0
    if phase.patience is not None:
        losses = [entry["validation_loss"] for entry in state.history]
        if not state.best_epoch or losses[-1] < losses[state.best_epoch - 1]:
            state.best_epoch, state.worse = len(losses), 0
            state.best = {name: parameter.detach().clone() for name, parameter in phase.trained.items()}
        else:
            state.worse += 1
    run.progress(phase=phase.name, epoch=len(state.history), step=state.step, **epoch)
