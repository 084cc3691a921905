"""What a phase goes on from: its optimizer's state, on the devices where the optimizer wants it."""

from __future__ import annotations

import copy

import pytest
import torch

from learning.blocks.test_train_loop import Network, make_phase
from transfer_learning.blocks.phases import files_of, snapshot_of, state_of
from transfer_learning.blocks.train_loop import State, optimizer_step, weight_groups


def trained_phase(network: Network):
    phase = make_phase(
        network, optimizer=torch.optim.AdamW(weight_groups(dict(network.named_parameters()), 1e-2, 0.1), fused=True)
    )
    state = State(micro_batch=4)
    optimizer_step(phase, state, [0, 1, 2, 3])
    state.step = 1
    return phase, state


def test_an_optimizer_goes_on_as_if_it_had_never_stopped() -> None:
    network, again = Network(), Network()
    phase, state = trained_phase(network)
    snapshot = copy.deepcopy(snapshot_of("fine_tune", files_of(phase, state, {}), {}, {}, state))  # as if read from a file
    resumed, _ = trained_phase(again)
    resumed.optimizer.state.clear()
    again.load_state_dict(network.state_dict())

    found = state_of(snapshot, resumed, micro_batch=4)
    for each, where in ((phase, state), (resumed, found)):
        optimizer_step(each, where, [4, 5, 6, 7])

    assert found.step == 1
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


@pytest.mark.parametrize("fused", [True, False])
def test_a_fused_optimizer_counts_its_steps_beside_the_weights(fused: bool) -> None:
    phase, state = trained_phase(Network())
    snapshot = snapshot_of("fine_tune", files_of(phase, state, {}), {}, {}, state)
    elsewhere = Network().to("meta")
    resumed = make_phase(elsewhere)
    for group in resumed.optimizer.param_groups:
        group["fused"] = fused

    state_of(snapshot, resumed, micro_batch=4)

    for parameter in elsewhere.parameters():
        held = {slot: value.device.type for slot, value in resumed.optimizer.state[parameter].items()}
        assert held == {"step": "meta" if fused else "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}
