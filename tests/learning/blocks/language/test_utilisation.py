"""Counted operations against those that torch itself counts."""

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from learning.tiny_language import KINDS, blocks_for, examples_for, load, loss_of
from transfer_learning.blocks.language.objectives import masked, vocabulary_of
from transfer_learning.blocks.language.replaced_token import ALL_HIDDEN, ReplacedExamples
from transfer_learning.blocks.language.utilisation import ceiling, training_flops


@pytest.mark.parametrize("kind", KINDS)
def test_the_operations_are_those_that_torch_counts(tmp_path: Path, kind: str) -> None:
    language = load(tmp_path, kind)
    examples = examples_for(language, blocks_for(language))
    language.model.set_attn_implementation("eager")  # whose products are counted one by one

    with FlopCounterMode(display=False) as counter:
        loss_of(examples, [0, 1]).backward()

    ours = 2 * training_flops(language, examples.blocks.length, examples.weights([0, 1])[0] / 2)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_both_models_of_replaced_tokens_are_counted(tmp_path: Path) -> None:
    language = load(tmp_path, "electra", objective="replaced_token")
    blocks = blocks_for(language)
    examples = ReplacedExamples(
        language, blocks, masked(blocks, vocabulary_of(language.tokenizer), 0.15, 3, ALL_HIDDEN), "cpu", "fp32"
    )
    for part in language.parts:
        part.set_attn_implementation("eager")

    with FlopCounterMode(display=False) as counter:
        loss_of(examples, [0, 1]).backward()

    ours = 2 * training_flops(language, blocks.length, examples.weights([0, 1])[0] / 2)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.002)


@pytest.mark.parametrize(
    ("device", "precision", "most"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA H100 80GB HBM3", "fp32", None),
        ("cpu", "bf16", None),
    ],
)
def test_the_ceiling_is_named_only_where_it_is_known(device: str, precision: str, most: float | None) -> None:
    assert ceiling(device, precision) == most


def test_a_longer_block_costs_more_than_its_tokens(tmp_path: Path) -> None:
    language = load(tmp_path, "bert")

    assert training_flops(language, 80, 12) > 2 * training_flops(language, 40, 6)
