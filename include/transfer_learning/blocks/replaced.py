"""Functions of our own in the place of the library's, for as long as they are wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.nn import functional


@contextlib.contextmanager
def replaced(**functions: Callable[..., Any]) -> Iterator[None]:
    """Let functions of ``torch.nn.functional`` be others of the same names, in every thread.

    Modules look them up there at each call. A ``TorchFunctionMode`` would look at every call of the library instead, which takes
    a twentieth of a training step of short texts.
    """
    before = {name: getattr(functional, name) for name in functions}
    for name, function in functions.items():
        setattr(functional, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(functional, name, function)
