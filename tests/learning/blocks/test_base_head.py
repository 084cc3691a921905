"""A base's trained head is kept by the names of its labels; what is new starts from the seed."""

from pathlib import Path

import pytest
import torch

from learning.tiny_model import CONFIGS, write_base, write_tokenizer
from transfer_learning.blocks.backbone import architecture_of
from transfer_learning.blocks.base_model import load_base

LABELS = ["no", "yes"]


def test_the_head_is_a_function_of_the_seed(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")

    first, again, other = (load_base(folder, LABELS, "architecture", seed).model.classifier.weight for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("labels", [LABELS, LABELS[::-1], [*LABELS, "new"], ["new", LABELS[1]]])
def test_a_trained_head_is_kept_by_the_names_of_its_labels(tmp_path: Path, kind: str, labels: list[str]) -> None:
    trained = load_base(write_base(tmp_path / "base", kind), LABELS, "architecture", seed=3).model
    trained.save_pretrained(tmp_path / "published")
    write_tokenizer(tmp_path / "published", kind=kind)

    base = load_base(tmp_path / "published", labels, "architecture", seed=4)

    assert base.head_labels == [label for label in labels if label in LABELS]
    output = architecture_of(trained.config).output
    before, after = (dict(model.get_submodule(output).named_parameters()) for model in (trained, base.model))
    for place, label in enumerate(labels):
        for name, weights in after.items():
            old = before[name][LABELS.index(label)] if label in LABELS else None
            assert torch.equal(weights[place], old) if old is not None else (weights.ndim == 1 or weights[place].any())
    changed = [
        n for n, w in trained.named_parameters() if not n.startswith(output) and not torch.equal(w, base.model.get_parameter(n))
    ]
    assert not changed


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_head_that_knows_none_of_the_labels_starts_anew(tmp_path: Path, kind: str) -> None:
    model = load_base(write_base(tmp_path / "base", kind), LABELS, "architecture", seed=3).model
    model.save_pretrained(tmp_path / "published")
    write_tokenizer(tmp_path / "published")

    base = load_base(tmp_path / "published", ["maybe", "never"], "architecture", seed=4)

    assert base.head_labels == []
    for name, weights in base.model.classifier.named_parameters():
        assert weights.ndim == 1 or not torch.equal(weights, model.classifier.get_parameter(name))
