"""What a run will do, in a few sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transfer_learning.hub import moving_revision
from transfer_learning.power import smallest_margin
from transfer_learning.refs import PlanRef
from transfer_learning.specs import EvaluateSpec, FeatureSpec, FineTuneSpec, PretrainSpec, PullSpec
from transfer_learning.store import Store

TYPICAL_DISAGREEMENT = 0.03
"""Share of test rows on which a champion and its successor give different answers, where nothing is known yet."""


def summarise(plan: PlanRef, specs: Mapping[str, Any], store: Store, *, base: str | None) -> PlanRef:
    """Return the plan with its summary, given the base model as it was asked for."""
    start = plan.base or "a model that this run makes from scratch"
    sentences = [f"Retrain {plan.model!r} from {start} in {plan.store}, with data as of {plan.as_of}."]
    if base and plan.base and (warning := moving_revision(base, plan.base)):
        sentences.append(warning)
    if "pull" in specs:
        sentences.append(_data(specs["pull"], plan))
    if "pretrain" in specs:
        sentences.append(_pretraining(specs["pretrain"]))
    if "features" in specs:
        sentences.append(_features(specs["features"]))
    if "fine_tune" in specs:
        sentences.append(_training(specs["fine_tune"]))
    if "evaluate" in specs:
        sentences.append(_gate(specs["evaluate"], plan))
        sentences.extend(_power(specs, store))
    return dataclasses.replace(plan, summary=" ".join(sentences))


def _data(spec: PullSpec, plan: PlanRef) -> str:
    rows = "all rows" if plan.window is None else f"rows from {plan.window['start']} to {plan.window['end']}"
    key = "splits as given" if spec.split.key == "given" else f"splits by {spec.split.key}"
    return (
        f"Pull {rows} of {', '.join(spec.sources())} into dataset {spec.name!r}: {key}, rows without a label: {spec.unlabelled}."
    )


def _pretraining(spec: PretrainSpec) -> str:
    start = f"a new {spec.architecture} ({spec.size or 'tiny'})" if spec.architecture else "the base model"
    start += ", with the base model's tokenizer," if spec.tokenizer == "base" else ""
    read = "labels" if spec.objective == "supervised" else "text"
    return f"Pretrain {start} with the objective {spec.objective!r} on the {read} of the training rows."


def _features(spec: FeatureSpec) -> str:
    layers = f"layer {spec.layers[0]}" if len(spec.layers) == 1 else f"layers {', '.join(map(str, spec.layers))}"
    return f"Extract {spec.pooling} features of {layers} for {', '.join(spec.splits)}, for rows that have none yet."


def _training(spec: FineTuneSpec) -> str:
    changed = {name: value for name, value in spec.canonical().items() if name not in ("strategy", "task")}
    settings = ", ".join(f"{name} {value}" for name, value in changed.items()) or "the defaults for its size"
    if spec.strategy == "auto":
        return f"Measure the base model on some of the rows, choose the strategy by that, and fine-tune with {settings}."
    return f"Fine-tune with strategy {spec.strategy!r} and {settings}."


def _gate(spec: EvaluateSpec, plan: PlanRef) -> str:
    gate = spec.gate
    floors = "".join(f" {name} must reach {value:g};" for name, value in gate.floors.items())
    if plan.champion is None:
        return f"There is no {spec.alias} yet:{floors} the first version that passes becomes it."
    rule = f"lose more than {gate.margin:g}" if gate.min_gain is None else f"gain less than {gate.min_gain:g}"
    return (
        f"Compare with {spec.alias} version {plan.champion} (generation {plan.champion_generation}):{floors}"
        f" the candidate must not {rule} in {gate.metric} at {gate.confidence:.0%} confidence."
    )


def _power(specs: Mapping[str, Any], store: Store) -> list[str]:
    """Say what margin the last snapshot's test rows can pass, where the dataset has one."""
    manifest = store.datasets.latest(specs["pull"].name) if "pull" in specs else None
    rows = manifest["splits"].get("test", 0) if manifest else 0
    if not rows:
        return []
    gate = specs["evaluate"].gate
    margin = smallest_margin(rows, TYPICAL_DISAGREEMENT, gate.confidence)
    enough = (
        "" if gate.min_gain is not None or gate.margin >= margin else f"; the gate's {gate.margin:g} would often end inconclusive"
    )
    return [
        f"With the last snapshot's {rows} test rows an equally good candidate passes a margin of {margin:.3f} or more,"
        f" if both disagree on {TYPICAL_DISAGREEMENT:.0%} of them{enough}."
    ]
