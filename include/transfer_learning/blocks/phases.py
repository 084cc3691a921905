"""What a checkpoint of a phase holds, and how a phase goes on from one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from transfer_learning.blocks.checkpoint import Snapshot
from transfer_learning.blocks.train_loop import Phase, State

Files = Mapping[str, Mapping[str, torch.Tensor]]
"""Tensors by file and name."""


def files_of(phase: Phase, state: State, extra: Files) -> Files:
    """Return the tensors of a checkpoint by file: the weights that train, the optimizer's state, the best weights, features."""
    slots = {
        f"{name}/{slot}": value
        for name, parameter in phase.trained.items()
        for slot, value in phase.optimizer.state.get(parameter, {}).items()
    }
    weights = {name: parameter.detach() for name, parameter in phase.trained.items()}
    return {"weights": weights, "optimizer": slots, **({"best": state.best} if state.best else {}), **extra}


def snapshot_of(
    phase: str, files: Files, finished: Mapping[str, Any], numerics: Mapping[str, Any], state: State | None = None, **facts: Any
) -> Snapshot:
    """Return everything that a resumed run needs to go on.

    Args:
        phase: name of the one that runs.
        files: its tensors.
        finished: the phases before it.
        numerics: the run's.
        state: where it stands between two steps; None for what is no training loop.
        facts: what the job keeps beside that, as JSON values.
    """
    known: dict[str, Any] = {"phase": phase, "finished": dict(finished), "numerics": dict(numerics), **facts}
    if state is not None:
        known["state"] = {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "best"}
    return Snapshot(files, known)


def state_of(snapshot: Snapshot | None, phase: Phase, micro_batch: int) -> State:
    """Return where a phase starts; its optimizer gets its own state from the same checkpoint.

    Args:
        snapshot: of this or of another phase, or None.
        phase: what will train.
        micro_batch: rows to a forward pass, unless memory ran out with fewer before.
    """
    if snapshot is None or snapshot.facts["phase"] != phase.name or "state" not in snapshot.facts:
        return State(micro_batch=micro_batch)
    stored = dict(snapshot.facts["state"])
    stored["micro_batch"] = min(stored["micro_batch"], micro_batch)
    _load_optimizer(phase, snapshot.files["optimizer"])
    return State(**stored, best=dict(snapshot.files.get("best", {})))


def _load_optimizer(phase: Phase, stored: Mapping[str, torch.Tensor]) -> None:
    """Give a phase's optimizer its state, on the devices where it wants it: a fused one counts steps beside the weights."""
    known = phase.optimizer.state_dict()
    parameters = [parameter for group in phase.optimizer.param_groups for parameter in group["params"]]
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in stored.items():
        name, _, slot = key.rpartition("/")
        state.setdefault(numbers[id(phase.trained[name])], {})[slot] = value
    phase.optimizer.load_state_dict({**known, "state": state})
