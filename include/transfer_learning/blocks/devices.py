"""Bringing rows to the device that computes on them."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray


def to_device(rows: torch.Tensor | NDArray[Any], device: str) -> torch.Tensor:
    """Return what lies in the processor's memory as a tensor on a device.

    To an accelerator it goes through page-locked memory and beside the work that is queued there: a plain copy would wait until
    that is done. PyTorch keeps the locked memory until the copy has been made.
    """
    tensor = torch.as_tensor(rows)
    return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor.to(device)
