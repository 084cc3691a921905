"""What is brought to a device arrives there as it was."""

import numpy as np
import pytest
import torch

from transfer_learning.blocks.devices import to_device

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [np.arange(12).reshape(3, 4), torch.rand(3, 4), np.zeros((0, 4), dtype=bool)])
def test_rows_arrive_as_they_are(rows: torch.Tensor | np.ndarray, device: str) -> None:
    there = to_device(rows, device)

    assert there.device.type == device
    assert torch.equal(there.cpu(), torch.as_tensor(rows))


@pytest.mark.gpu
def test_memory_that_was_copied_from_may_be_written_again_only_afterwards() -> None:
    copies = [to_device(torch.full((1 << 20,), number), "cuda") for number in range(50)]

    assert [int(copy.unique()) for copy in copies] == list(range(50))
