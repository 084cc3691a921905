"""Runs the stage ``pretrain`` on tiny corpora as a job would, whole or stopped and resumed."""

from pathlib import Path
from typing import Any

from learning.stages.fine_tuning import Job as FineTuningJob
from learning.tiny_model import make_rows, write_base, write_rows
from transfer_learning.specs import PretrainSpec
from transfer_learning.stage import Run
from transfer_learning.stages.pretrain import pretrain

TIMES = ("seconds", "rows_per_second", "tokens_per_second", "flops_utilisation")

SCRATCH = {"layers": 2, "hidden_size": 32, "heads": 2, "vocab_size": 300, "max_length": 32}
"""A model of a few thousand weights, with a tokenizer of its own."""


class Job(FineTuningJob):
    """Documents in folders, maybe a tiny base model without a language-model head, and the stage on them.

    Args:
        folder: a fresh one.
        documents: that are trained on.
        validation: that tell the perplexity.
        kind: architecture of the base; None starts from scratch.
    """

    def __init__(self, folder: Path, documents: int = 60, validation: int = 0, kind: str | None = "bert") -> None:
        self.folder = folder
        self.inputs = {"train": [write_rows(folder / "train", make_rows(documents), parts=2)]}
        if kind:
            self.inputs["base"] = [write_base(folder / "base", kind)]
        if validation:
            self.inputs["validation"] = [write_rows(folder / "validation", make_rows(validation, seed=1))]

    def run(self, name: str = "out", run: Run | None = None, **settings: Any) -> dict[str, Any]:
        """Run the stage into ``folder/name`` and return its metrics without those that measure time."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        metrics = pretrain(PretrainSpec(**settings), self.inputs, out, run or Run(threads=1))
        return {key: value for key, value in metrics.items() if key not in TIMES}
