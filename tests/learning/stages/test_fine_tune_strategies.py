"""What each strategy trains, when, and at which rates."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from learning.stages.fine_tuning import Job, weight_hashes
from transfer_learning.blocks import adaptation, freezing
from transfer_learning.blocks.schedules import slanted_triangular
from transfer_learning.blocks.train_loop import Phase, State
from transfer_learning.errors import BadInput
from transfer_learning.stage import Run

BLOCKS = 4
"""Embeddings and three layers."""

HEAD = ("head", set())
EVERY_STAGE: dict[str, tuple[dict[str, Any], list[tuple[str, set[int]]]]] = {
    "full": ({"strategy": "full"}, [("fine_tune", {0, 1, 2, 3})]),
    "linear_probe": ({"strategy": "linear_probe", "head_epochs": 1}, [HEAD]),
    "top_layers": ({"strategy": "top_layers", "unfreeze_blocks": 2}, [("fine_tune", {2, 3})]),
    "probe_then_fine_tune": (
        {"strategy": "probe_then_fine_tune", "head_epochs": 1, "unfreeze_blocks": 1},
        [HEAD, ("fine_tune", {3})],
    ),
    "gradual_unfreeze": (
        {"strategy": "gradual_unfreeze"},
        [HEAD, ("top_1", {3}), ("top_2", {2, 3}), ("top_3", {1, 2, 3}), ("fine_tune", {0, 1, 2, 3})],
    ),
    "lora": ({"strategy": "lora"}, [("fine_tune", {1, 2, 3})]),
    "lora in the top layer": ({"strategy": "lora", "unfreeze_blocks": 1}, [("fine_tune", {3})]),
    "gradual_unfreeze of two": (
        {"strategy": "gradual_unfreeze", "unfreeze_blocks": 2},
        [HEAD, ("top_1", {3}), ("fine_tune", {2, 3})],
    ),
}

Watched = list[tuple[str, set[str], set[str], set[str]]]
"""For each phase its name, the names of all weights, of those that train, and of those that moved."""


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> Watched:
    found: Watched = []
    train = adaptation.Adaptation._train

    def watched(self: adaptation.Adaptation, phase: Phase, extra: Any) -> None:
        named = dict(self.classifier.named_parameters())
        before = freezing.hashes(named.items())
        train(self, phase, extra)
        after = freezing.hashes(named.items())
        found.append((phase.name, set(named), set(phase.trained), {name for name in named if before[name] != after[name]}))

    monkeypatch.setattr(adaptation.Adaptation, "_train", watched)
    return found


@pytest.fixture
def optimizers(monkeypatch: pytest.MonkeyPatch) -> list[Phase]:
    found: list[Phase] = []
    train = adaptation.train

    def watched(phase: Phase, state: State, run: Run, save: Callable[[bool], None]) -> None:
        found.append(phase)
        train(phase, state, run, save)

    monkeypatch.setattr(adaptation, "train", watched)
    return found


@pytest.mark.promise(8)
@pytest.mark.parametrize("name", EVERY_STAGE)
def test_in_every_phase_what_is_frozen_stays_and_everything_else_moves(tmp_path: Path, phases: Watched, name: str) -> None:
    settings, expected = EVERY_STAGE[name]
    epochs = {} if name == "linear_probe" else {"epochs": 1}

    Job(tmp_path).run(pooling="architecture", **settings, **epochs)

    assert [phase for phase, *_ in phases] == [phase for phase, _ in expected]
    for (_, every, trained, moved), (_, blocks) in zip(phases, expected, strict=True):
        assert moved == trained
        assert {int(n.split(".layer.")[1][0]) + 1 for n in moved if ".layer." in n} == blocks - {0}
        assert any("embeddings" in n for n in moved) == (0 in blocks)
        assert {n for n in every if n.startswith(("model.classifier.", "model.bert.pooler."))} <= moved


def test_a_pooled_head_too_starts_with_one_epoch_of_its_own(tmp_path: Path, phases: Watched) -> None:
    metrics = Job(tmp_path).run(strategy="gradual_unfreeze", pooling="concat", epochs=1)

    assert [phase for phase, *_ in phases] == ["head", "top_1", "top_2", "top_3", "fine_tune"]
    assert (metrics["head_epochs"], metrics["unfreezing_epochs"], metrics["fine_tune_epochs"]) == (1, 3, 1)


def rates(phase: Phase) -> dict[str, float]:
    """Return the peak rate of each weight."""
    names = {id(parameter): name for name, parameter in phase.trained.items()}
    return {names[id(p)]: group["peak"] for group in phase.optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize(("given", "factor"), [("discriminative", 1 / 2.6), (0.5, 0.5)])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "gpt2"])
def test_each_block_has_a_share_of_the_rate_above(
    tmp_path: Path, optimizers: list[Phase], given: float | str, factor: float, kind: str
) -> None:
    Job(tmp_path, kind=kind).run(epochs=1, backbone_lr=1e-3, head_lr=3e-3, layer_decay=given)

    (phase,) = optimizers
    found = rates(phase)
    assert set(found) == set(phase.trained)
    for name, rate in found.items():
        layer = re.search(r"\.(?:layer|h)\.(\d+)\.", name)
        block = int(layer[1]) + 1 if layer else BLOCKS - 1 if ".ln_f." in name else 0
        head = name.startswith(("model.classifier.", "model.pre_classifier.", "model.bert.pooler.", "model.score."))
        assert rate == pytest.approx(3e-3 if head else 1e-3 * factor ** (BLOCKS - 1 - block))


def test_the_top_block_keeps_its_rate_while_others_are_added(tmp_path: Path, optimizers: list[Phase]) -> None:
    Job(tmp_path).run(strategy="gradual_unfreeze", epochs=1, backbone_lr=1e-3, layer_decay="discriminative")

    top = "model.bert.encoder.layer.2.output.dense.weight"
    assert [rates(phase)[top] for phase in optimizers[1:]] == [1e-3] * 4


def test_every_phase_runs_the_schedule_that_was_named(tmp_path: Path, optimizers: list[Phase]) -> None:
    Job(tmp_path).run(strategy="gradual_unfreeze", epochs=2, schedule="slanted_triangular", warmup=0.2)

    assert [phase.epochs for phase in optimizers] == [1, 1, 1, 1, 2]
    assert all(phase.schedule is slanted_triangular and phase.warmup == 0.2 for phase in optimizers)


def test_the_three_techniques_together_learn_and_differ_from_each_alone(tmp_path: Path) -> None:
    job = Job(tmp_path)
    settings: dict[str, Any] = {"epochs": 60, "backbone_lr": 1e-2, "head_lr": 1e-2, "batch_size": 8}
    gradual = {"strategy": "gradual_unfreeze"}
    ulmfit = gradual | {"layer_decay": "discriminative", "schedule": "slanted_triangular"}

    metrics = job.run("all", **settings, **ulmfit)
    for name, alone in {"gradual": gradual, "rates": {"layer_decay": "discriminative"}}.items():
        job.run(name, **settings, **alone)

    assert metrics["train_loss"] < 0.5
    assert len({str(weight_hashes(tmp_path / name)) for name in ("all", "gradual", "rates")}) == 3


def test_block_by_block_on_stored_states_ends_as_on_the_rows(tmp_path: Path) -> None:
    job = Job(tmp_path)
    settings: dict[str, Any] = {"strategy": "gradual_unfreeze", "unfreeze_blocks": 1, "epochs": 2, "precision": "fp32"}
    settings |= {"micro_batch": 4, "batch_size": 8}
    _without_dropout(job.folder / "base")

    job.run("stored", state_cache="on", **settings)
    job.run("anew", state_cache="off", **settings)

    stored, anew = (_weights(tmp_path / name / "model") for name in ("stored", "anew"))
    # The true gradient of a key's bias is zero: Adam makes steps of rounding errors there.
    assert all(torch.allclose(stored[name], anew[name], atol=1e-5) for name in anew if not name.endswith("key.bias"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"strategy": "gradual_unfreeze"}, "SHARED_WEIGHTS this model shares weights between its layers and cannot be frozen"),
        ({"strategy": "top_layers", "unfreeze_blocks": 1}, "SHARED_WEIGHTS this model shares weights between its layers"),
        ({"layer_decay": 0.8}, "SHARED_WEIGHTS this model shares weights between its layers, and layer_decay gives each"),
    ],
)
def test_layers_that_share_their_weights_are_one_clear_line(tmp_path: Path, settings: dict[str, Any], line: str) -> None:
    job = Job(tmp_path, kind="albert")

    with pytest.raises(BadInput, match=f"^{line}"):
        job.run(epochs=1, **settings)


def _without_dropout(base: Path) -> None:
    config = (base / "config.json").read_text()
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        assert f'"{name}": 0.1' in config
        config = config.replace(f'"{name}": 0.1', f'"{name}": 0.0')
    (base / "config.json").write_text(config)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
