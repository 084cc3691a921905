"""Gradients, rates, memory and divergence of the one training loop."""

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from transfer_learning.blocks.dropout import dropout
from transfer_learning.blocks.memory import in_halves
from transfer_learning.blocks.schedules import warmup_and_decay
from transfer_learning.blocks.train_loop import (
    Examples,
    Phase,
    State,
    accumulate,
    optimizer_step,
    train,
    weight_groups,
)
from transfer_learning.blocks.waiting import WATCHER
from transfer_learning.errors import Diverged, OutOfMemory
from transfer_learning.stage import Run

ROWS, WIDTH, CLASSES = 12, 6, 3


class Network(nn.Module):
    """Linear, normalisation, linear; fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inputs = torch.randn(ROWS, WIDTH)
        self.below, self.norm, self.above = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        self.most_rows = ROWS
        self.error: Exception = torch.OutOfMemoryError("no more")
        self.sizes: list[int] = []

    def forward(self, rows: Sequence[int]) -> torch.Tensor:
        self.sizes.append(len(rows))
        if len(rows) > self.most_rows:
            raise self.error
        return self.above(torch.tanh(self.norm(self.below(self.inputs[list(rows)]))))


def make_phase(network: Network, **changes: Any) -> Phase:
    weights = changes.pop("class_weights", None)
    examples = Examples(network, [8] * ROWS, torch.arange(ROWS) % CLASSES, weights)
    trained = dict(network.named_parameters())
    settings = {
        "name": "fine_tune", "train": examples, "validation": None, "trained": trained,
        "optimizer": torch.optim.AdamW(weight_groups(trained, 1e-2, 0.1)), "epochs": 3, "batch_size": 4, "seed": 0, "warmup": 0.1,
        "max_grad_norm": 1.0, "patience": None, "set_modes": network.train,
    }  # fmt: skip
    return Phase(**settings | changes)


def gradient(micro_batch: int, weights: torch.Tensor | None) -> dict[str, torch.Tensor]:
    network = Network()
    accumulate(make_phase(network, class_weights=weights), State(micro_batch=micro_batch), list(range(11)))
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 4.0])], ids=["unweighted", "class weights"])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
@pytest.mark.promise(6)
def test_accumulated_gradients_are_the_undivided_one(micro_batch: int, weights: torch.Tensor | None) -> None:
    whole, parts = gradient(11, weights), gradient(micro_batch, weights)

    assert all(torch.allclose(whole[name], parts[name], rtol=0, atol=1e-6) for name in whole)


def test_the_loss_is_the_mean_over_the_effective_batch() -> None:
    network = Network()
    phase = make_phase(network)

    loss, weight = accumulate(phase, State(micro_batch=3), list(range(11)))

    expected = nn.functional.cross_entropy(network(range(11)), phase.train.targets[:11])
    assert loss / weight == pytest.approx(expected.item(), abs=1e-6)


def test_biases_and_normalisation_weights_do_not_decay() -> None:
    network = Network()

    decaying, steady = weight_groups(dict(network.named_parameters()), 1.0, 0.1)

    assert decaying["weight_decay"] == 0.1
    assert {id(p) for p in decaying["params"]} == {id(network.below.weight), id(network.above.weight)}
    assert steady["weight_decay"] == 0
    assert len(steady["params"]) == 4


def test_the_loop_sets_each_steps_rate() -> None:
    network = Network()
    seen = []
    phase = make_phase(network)
    phase.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))

    train(phase, State(micro_batch=4), Run(), lambda _: None)

    assert seen == pytest.approx([1e-2 * warmup_and_decay(step, 9, 0.1) for step in range(9)])


def test_a_step_draws_its_dropout_quickly_and_from_its_seed_and_number() -> None:
    network, drawn = Network(), []
    phase = make_phase(network)

    def logits(rows: Sequence[int]) -> torch.Tensor:
        state = torch.get_rng_state()
        drawn.append(functional.dropout(torch.ones(64), 0.5))
        torch.set_rng_state(state)
        assert torch.equal(drawn[-1], dropout(torch.ones(64), 0.5))
        return network(rows)

    phase = dataclasses.replace(phase, train=dataclasses.replace(phase.train, logits=logits))
    for step in (0, 1, 0):
        optimizer_step(phase, State(micro_batch=4, step=step), [0, 1, 2, 3])

    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(("threads", "watchers"), [(1, 0), (2, 1)])
def test_threads_that_wait_for_each_other_give_way_while_a_phase_trains(threads: int, watchers: int) -> None:
    found, before = [], torch.get_num_threads()

    def watching() -> int:
        return sum(thread.name == WATCHER for thread in threading.enumerate())

    torch.set_num_threads(threads)
    try:
        phase = make_phase(Network(), on_epoch=lambda _: found.append(watching()))
        train(phase, State(micro_batch=4), Run(), lambda _: None)
    finally:
        torch.set_num_threads(before)

    assert found == [watchers] * phase.epochs
    assert watching() == 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), MemoryError()]
)
def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(error: Exception) -> None:
    network, small = Network(), Network()
    network.most_rows, network.error = 3, error
    state = State(micro_batch=12)

    optimizer_step(make_phase(network), state, list(range(12)))
    optimizer_step(make_phase(small), State(micro_batch=3), list(range(12)))

    assert (state.micro_batch, state.halvings) == (3, 2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), small.parameters(), strict=True))


class Short(Network):
    """Has room for two rows only at one optimizer step; remembers the gradient of each."""

    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at, self.gradients = at, list[list[torch.Tensor]]()

    def forward(self, rows: Sequence[int]) -> torch.Tensor:
        self.most_rows = 2 if len(self.gradients) == self.at else ROWS
        return super().forward(rows)

    def train_to_the_end(self) -> State:
        phase, state = make_phase(self), State(micro_batch=4)
        phase.optimizer.register_step_pre_hook(lambda *_: self.gradients.append([p.grad.clone() for p in self.parameters()]))
        train(phase, state, Run(), lambda _: None)
        return state


@pytest.mark.promise(6)
def test_out_of_memory_at_any_step_keeps_the_effective_batch(held: Callable[[str], None]) -> None:
    whole = Short(None)
    steps, difference = whole.train_to_the_end().step, 0.0
    for at in (0, 1, 4, 7, 8):
        short = Short(at)

        state = short.train_to_the_end()

        assert (state.step, state.micro_batch, state.halvings) == (steps, 2, 1)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(whole.gradients[at], short.gradients[at], strict=True))
        ends = zip(whole.parameters(), short.parameters(), strict=True)
        difference = max(difference, *((a - b).abs().max().item() for a, b in ends))
    held(f"5 steps: same batch, gradients within 1e-6; final weights differ by {difference:.1e} at most")


def test_what_the_optimizer_lacks_is_not_mended_by_fewer_rows() -> None:
    phase, state = make_phase(Network()), State(micro_batch=4)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    phase.optimizer.register_step_pre_hook(full)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer_step(phase, state, [0, 1, 2, 3])

    assert state.halvings == 0


@pytest.mark.promise(6)
def test_after_four_halvings_it_ends_with_one_line() -> None:
    network = Network()
    network.most_rows = 0

    with pytest.raises(OutOfMemory, match="OUT_OF_MEMORY"):
        optimizer_step(make_phase(network), State(micro_batch=64), list(range(12)))

    assert network.sizes == [12, 12, 12, 8, 4]


@pytest.mark.parametrize(
    "text",
    [
        "could not create a primitive",
        "x.so: failed to map segment from shared object",
        "std::bad_alloc",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "unable to mmap: Cannot allocate memory (12)",
        "Failed to launch worker thread: Resource temporarily unavailable",
    ],
)
def test_lack_of_memory_is_known_by_what_the_libraries_say(text: str) -> None:
    network = Network()
    network.most_rows, network.error = 2, RuntimeError(text)
    state = State(micro_batch=4)

    optimizer_step(make_phase(network), state, [0, 1, 2, 3])

    assert state.micro_batch == 2


def test_another_error_is_not_taken_for_lack_of_memory() -> None:
    network = Network()
    network.most_rows, network.error = 0, RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        optimizer_step(make_phase(network), State(micro_batch=4), [0, 1])


def test_evaluation_halves_a_batch_that_does_not_fit() -> None:
    network = Network()
    whole = network(range(8))
    network.most_rows = 2

    assert torch.allclose(in_halves(network, range(8)), whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_loss_ends_the_run_before_any_weight_moves(value: float) -> None:
    network = Network()
    network.inputs[3] = value
    before = [parameter.clone() for parameter in network.parameters()]

    with pytest.raises(Diverged, match="step 1: the loss is"):
        optimizer_step(make_phase(network), State(micro_batch=4), list(range(4)))

    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_broken_gradient_ends_the_run_before_any_weight_moves() -> None:
    network = Network()
    network.above.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = [parameter.clone() for parameter in network.parameters()]

    with pytest.raises(Diverged, match="gradient"):
        optimizer_step(make_phase(network), State(micro_batch=4), list(range(4)))

    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_gradients_are_clipped_to_the_norm() -> None:
    network = Network()
    norms = []
    phase = make_phase(network, max_grad_norm=1e-3)
    phase.optimizer.register_step_pre_hook(
        lambda *_: norms.append(float(torch.stack([p.grad.norm() for p in network.parameters()]).norm()))
    )

    optimizer_step(phase, State(micro_batch=4), list(range(4)))

    assert norms == pytest.approx([1e-3], rel=1e-3)


def test_the_best_epochs_weights_are_left_in_place_and_patience_ends_the_run() -> None:
    network = Network()
    wrong = Examples(network, [8] * ROWS, (torch.arange(ROWS) + 1) % CLASSES)
    ends = []
    phase = make_phase(network, validation=wrong, patience=2, epochs=50)
    state = State(micro_batch=4)

    def remember(epoch_end: bool) -> None:
        if epoch_end:
            ends.append([parameter.detach().clone() for parameter in network.parameters()])

    train(phase, state, Run(), remember)

    losses = [entry["validation_loss"] for entry in state.history]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 50
    assert state.best_epoch == best + 1
    assert all(torch.equal(a, b) for a, b in zip(ends[best], network.parameters(), strict=True))


def test_what_is_drawn_anew_is_told_each_epoch_also_after_a_resume() -> None:
    network = Network()
    told = []
    phase = make_phase(network, on_epoch=told.append)

    train(phase, State(micro_batch=4), Run(), lambda _: None)
    train(phase, State(micro_batch=4, step=4, loss=1.0, weight=4.0, history=[{"train_loss": 1.0}]), Run(), lambda _: None)

    assert told == [0, 1, 2, 1, 2]


def test_a_phase_may_report_figures_of_its_own(tmp_path: Path) -> None:
    phase = make_phase(Network(), figures=lambda loss, pace: {"double": 2 * loss, "pace": pace})

    train(phase, State(micro_batch=4), Run(progress_file=tmp_path / "progress"), lambda _: None)

    steps = [line for line in map(json.loads, (tmp_path / "progress").read_text().splitlines()) if "lr" in line]
    assert all(line["double"] == 2 * line["loss"] and line["pace"] == line["rows_per_second"] for line in steps)
