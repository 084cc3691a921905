"""What is set up for a run that can be repeated."""

import torch

from transfer_learning.blocks import numerics
from transfer_learning.stage import Run


def test_arithmetic_is_repeatable_and_writes_no_tensor_twice_for_it() -> None:
    torch.utils.deterministic.fill_uninitialized_memory = True

    numerics.choose("fp32", Run())

    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
