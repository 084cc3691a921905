"""What a checkpoint of a phase holds, and how a phase goes on from one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transfer_learning.blocks.adaptation import files_of
from transfer_learning.blocks.checkpoint import Snapshot
from transfer_learning.blocks.train_loop import Phase, State


def snapshot_of(phase: Phase, state: State, finished: Mapping[str, Any], numerics: Mapping[str, Any], **facts: Any) -> Snapshot:
    """Return everything that a resumed run needs to go on from between two steps.

    Args:
        phase: what trains.
        state: where it stands.
        finished: the phases before it.
        numerics: the run's.
        facts: what the job keeps beside that, as JSON values.
    """
    position = {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "best"}
    known = {"phase": phase.name, "finished": dict(finished), "numerics": dict(numerics), "state": position}
    return Snapshot(files_of(phase, state, {}), known | facts)


def state_of(snapshot: Snapshot | None, phase: Phase, micro_batch: int) -> State:
    """Return where a phase without a best epoch starts; its optimizer gets its own state from the same checkpoint."""
    if snapshot is None or snapshot.facts["phase"] != phase.name:
        return State(micro_batch=micro_batch)
    stored = dict(snapshot.facts["state"])
    stored["micro_batch"] = min(stored["micro_batch"], micro_batch)
    for key, value in snapshot.files["optimizer"].items():
        name, _, slot = key.rpartition("/")
        parameter = phase.trained[name]
        phase.optimizer.state[parameter][slot] = value if slot == "step" else value.to(parameter.device)
    return State(**stored)
