"""Supervised pretraining: labelled classification on a source task, whose head is thrown away on transfer.

Oquab et al. 2014; Yosinski et al. 2014. It is fine-tuning of every weight, with the last epoch kept as in all pretraining. What
a spec leaves open: where a base is continued as in fine-tuning (``blocks/defaults.py``); from scratch 10 epochs, at the peak rate
of every pretraining from scratch.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from transfer_learning.blocks import defaults
from transfer_learning.blocks.base_model import Base, quiet_library
from transfer_learning.blocks.language.model import scratch_config
from transfer_learning.blocks.language.pretraining import SCRATCH_LR
from transfer_learning.specs import FineTuneSpec, PretrainSpec

SCRATCH_EPOCHS = 10

SHARED = (
    *("task", "max_length", "epochs", "batch_size", "weight_decay", "warmup", "max_grad_norm", "precision", "seed"),
    *("micro_batch", "checkpoint_seconds", "resume_elsewhere"),
)
"""Settings that mean the same in both specs."""


def as_fine_tuning(spec: PretrainSpec) -> FineTuneSpec:
    """Return the settings by the names that fine-tuning gives them."""
    values = {name: getattr(spec, name) for name in SHARED} | {"backbone_lr": spec.learning_rate}
    if spec.architecture is not None:
        values |= {"epochs": spec.epochs or SCRATCH_EPOCHS, "backbone_lr": spec.learning_rate or SCRATCH_LR}
    return FineTuneSpec(strategy="full", pooling="architecture", early_stopping=False, **values)


def from_scratch(spec: PretrainSpec, labels: list[str], tokenizer: Any, max_length: int) -> Base:
    """Build an architecture with a classification head, with random weights in fp32 on the CPU.

    Args:
        spec: names architecture, size and seed.
        labels: label names in order.
        tokenizer: that the model will have.
        max_length: longest input in tokens.
    """
    quiet_library()
    config = scratch_config(spec, len(tokenizer), tokenizer)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    torch.manual_seed(spec.seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return Base(model, tokenizer, max_length, [])


def settings(spec: PretrainSpec, plan: defaults.Plan, max_length: int) -> dict[str, Any]:
    """Return the settings as they were used, chosen or given."""
    used: dict[str, Any] = {"objective": spec.objective, "start": spec.architecture or "the base model", "max_length": max_length}
    used |= {"epochs": plan.epochs, "batch_size": plan.batch_size, "learning_rate": plan.backbone_lr}
    return used | {name: getattr(spec, name) for name in ("weight_decay", "warmup", "max_grad_norm", "seed")}
