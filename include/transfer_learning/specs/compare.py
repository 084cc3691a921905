"""How several evaluated versions are put side by side."""

from __future__ import annotations

import dataclasses

from transfer_learning.errors import BadInput
from transfer_learning.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CompareSpec(Settings):
    """How several evaluated versions are put side by side."""

    confidence: float = 0.95
    """Of every interval: over the draws of the training rows where there are several, over the test rows where there is one."""

    def check(self) -> None:
        if not 0 < self.confidence < 1:
            raise BadInput("BAD_SETTING", f"CompareSpec.confidence must lie between 0 and 1, found {self.confidence}")
