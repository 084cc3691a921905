"""The phases of a pretraining, and what a spec leaves open."""

import dataclasses
from pathlib import Path

import pytest
import torch

from learning.tiny_language import blocks_for, examples_for, load
from transfer_learning.blocks.checkpoint import Checkpoints
from transfer_learning.blocks.language.objectives import Drawn
from transfer_learning.blocks.language.pretraining import Pretraining, resolve
from transfer_learning.blocks.language.utilisation import training_flops
from transfer_learning.errors import Diverged
from transfer_learning.specs import PretrainSpec
from transfer_learning.stage import Run

SPEC = PretrainSpec(epochs=2, head_epochs=3, batch_size=4, learning_rate=1e-3)


@pytest.fixture
def pretraining(tmp_path: Path) -> Pretraining:
    language = load(tmp_path, "bert")
    run = Run(numerics={"device": "cpu", "device_name": "cpu", "precision": "fp32"})
    examples = examples_for(language, blocks_for(language))
    plan = resolve(SPEC, len(examples.blocks), new_head=True)
    return Pretraining(language, examples, None, SPEC, plan, run, Checkpoints(run, {}, 60), None, {})


def weights(pretraining: Pretraining) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in pretraining.language.model.named_parameters()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_base_stays_frozen_while_a_new_head_warms_up_and_then_all_train(pretraining: Pretraining) -> None:
    start = weights(pretraining)
    pretraining.warm_up_head()
    warm = weights(pretraining)
    pretraining.train_all()
    end = weights(pretraining)

    assert changed(start, warm) == {name for name in start if name.startswith("cls.")}
    assert changed(warm, end) >= {name for name in start if "encoder.layer" in name and "key.bias" not in name}
    steps = -(-len(pretraining.examples.blocks) // 4)
    assert {name: entry["ticks"] for name, entry in pretraining.finished.items()} == {"head": 3 * steps, "pretrain": 2 * steps}


def test_a_frozen_base_runs_without_dropout(pretraining: Pretraining) -> None:
    modes: list[tuple[bool, bool]] = []
    model = pretraining.language.model
    model.cls.predictions.register_forward_hook(lambda *_: modes.append((model.base_model.training, model.cls.training)))

    pretraining.warm_up_head()
    frozen = set(modes)
    modes.clear()
    pretraining.train_all()

    assert frozen == {(False, True)}
    assert set(modes) == {(True, True)}


def test_masks_are_drawn_anew_in_each_epoch_of_both_phases(pretraining: Pretraining) -> None:
    epochs: list[int] = []
    draw = pretraining.examples.draw

    def remember(rows: list[int], epoch: int) -> Drawn:
        epochs.append(epoch)
        return draw(rows, epoch)

    pretraining.examples.draw = remember
    pretraining.run_phases()

    assert sorted(set(epochs)) == [0, 1, 2, 3, 4]
    assert epochs == sorted(epochs)


def test_the_decoder_stays_tied(pretraining: Pretraining) -> None:
    pretraining.run_phases()

    model = pretraining.language.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(("kind", "objective"), [("bert", "masked_lm"), ("electra", "replaced_token")])
def test_every_objective_tells_its_utilisation_where_the_ceiling_is_known(tmp_path: Path, kind: str, objective: str) -> None:
    language = load(tmp_path, kind, objective=objective)
    run = Run(numerics={"device": "cpu", "device_name": "NVIDIA L4", "precision": "bf16"})
    examples = examples_for(language, blocks_for(language))
    plan = resolve(SPEC, len(examples.blocks), new_head=True)

    found = Pretraining(language, examples, None, SPEC, plan, run, Checkpoints(run, {}, 60), None, {}).figures(1.0, 1e6)

    predictions = examples.weights(range(len(examples.blocks)))[0] / len(examples.blocks)
    assert found["flops_utilisation"] == pytest.approx(1e6 * training_flops(language, 40, predictions) / 121e12)


def test_weights_that_are_no_numbers_end_the_run(pretraining: Pretraining) -> None:
    with torch.no_grad():
        pretraining.language.model.cls.predictions.bias[0] = float("nan")

    with pytest.raises(Diverged, match=r"^DIVERGED head, step 1: the loss is nan"):
        pretraining.run_phases()


@pytest.mark.parametrize(
    ("settings", "new_head", "rate", "head_epochs"),
    [
        ({}, True, 1e-4, 1),
        ({}, False, 1e-4, 0),
        ({"architecture": "bert"}, False, 5e-4, 0),
        ({"learning_rate": 0.1}, False, 0.1, 0),
    ],
)
def test_what_is_left_open_follows_from_where_it_starts(settings: dict, new_head: bool, rate: float, head_epochs: int) -> None:
    plan = resolve(PretrainSpec(**settings), 100, new_head=new_head)

    assert (plan.learning_rate, plan.head_epochs, plan.epochs, plan.batch_size) == (rate, head_epochs, 3, 32)


def test_no_batch_is_larger_than_the_corpus() -> None:
    plan = resolve(dataclasses.replace(SPEC, batch_size=64), 10, new_head=False)

    assert (plan.batch_size, plan.micro_batch) == (10, 10)
