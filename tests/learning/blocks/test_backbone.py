"""The seam gives what the library's own forward gives, whole and in two parts, for every architecture."""

from pathlib import Path

import pytest
import torch

from learning.tiny_model import CONFIGS, write_base
from transfer_learning.blocks import freezing
from transfer_learning.blocks.base_model import Base, load_base
from transfer_learning.blocks.batching import tokenize
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.errors import BadInput

LABELS = ["business", "film", "sport"]
TEXTS = ["the goal", "a new market price in the bank", "star"]


@pytest.fixture(params=sorted(CONFIGS))
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    return load_base(write_base(tmp_path / "base", request.param), LABELS, "architecture", seed=0)


def batch_of(base: Base, classifier: TextClassifier) -> dict[str, torch.Tensor]:
    return tokenize(base.tokenizer, TEXTS, None, 48, segments=classifier.backbone.has_segments).batch(range(3))


def test_logits_are_those_of_the_models_own_forward(base: Base) -> None:
    classifier = TextClassifier(base.model, 3, "architecture").eval()
    batch = batch_of(base, classifier)

    with torch.inference_mode():
        assert torch.equal(classifier(batch), base.model(**batch).logits)


def test_running_from_a_stored_state_gives_the_same_as_running_through(base: Base) -> None:
    classifier = TextClassifier(base.model, 3, "architecture").eval()
    backbone, batch = classifier.backbone, batch_of(base, classifier)

    with torch.inference_mode():
        whole = backbone.run(batch)
        for split in range(1, len(backbone.blocks)):
            stored = backbone.run(batch, until=split - 1)
            assert torch.equal(backbone.run_from(stored, batch["attention_mask"], split), whole)


def test_there_is_a_block_for_the_embeddings_and_one_for_each_layer(base: Base) -> None:
    backbone = TextClassifier(base.model, 3, "architecture").backbone
    numbered = {id(p) for number in range(len(backbone.blocks)) for p in backbone.parameters(number)}
    head = {id(p) for name, p in base.model.named_parameters() if name.startswith(backbone.architecture.head_keys)}

    assert len(backbone.blocks) == 4
    assert numbered | head == {id(p) for p in base.model.parameters()}


def test_only_albert_cannot_be_split_between_its_layers(base: Base) -> None:
    backbone = TextClassifier(base.model, 3, "architecture").backbone

    splits = [backbone.can_split(block) for block in range(5)]

    shared = base.model.config.model_type == "albert"
    assert splits == ([True, True, False, False, True] if shared else [True] * 5)


def test_freezing_inside_shared_layers_is_refused(tmp_path: Path) -> None:
    base = load_base(write_base(tmp_path / "base", "albert"), LABELS, "mean", seed=0)

    with pytest.raises(BadInput, match="SHARED_WEIGHTS"):
        freezing.freeze_below(TextClassifier(base.model, 3, "mean"), 2)


def test_frozen_blocks_run_without_dropout_and_trained_ones_with_it(tmp_path: Path) -> None:
    base = load_base(write_base(tmp_path / "base"), LABELS, "architecture", seed=0)
    classifier = TextClassifier(base.model, 3, "architecture")
    batch = batch_of(base, classifier)

    freezing.freeze_below(classifier, 2)
    freezing.set_modes(classifier)

    lower = [classifier.backbone.run(batch, until=1) for _ in range(2)]
    upper = [classifier.backbone.run(batch) for _ in range(2)]
    assert torch.equal(*lower)
    assert not torch.equal(*upper)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_pooling_sees_a_rows_own_tokens_only(tmp_path: Path, pooling: str) -> None:
    base = load_base(write_base(tmp_path / "base"), LABELS, pooling, seed=0)
    head = TextClassifier(base.model, 3, pooling).head
    states, mask = torch.randn(1, 4, 16), torch.tensor([[1, 1, 0, 0]])
    expected = {"mean": states[0, :2].mean(0), "max": states[0, :2].amax(0), "cls": states[0, 0]}[pooling]

    assert torch.allclose(head.pool(states, mask)[0], expected)
