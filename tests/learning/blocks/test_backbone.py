"""The seam gives what the library's own forward gives, whole and in two parts, for every architecture."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from learning.tiny_model import CONFIGS, write_base
from transfer_learning.blocks import freezing
from transfer_learning.blocks.attention import quickest_attention
from transfer_learning.blocks.base_model import Base, load_base
from transfer_learning.blocks.batching import padded, tokenize
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.errors import BadInput
from transfer_learning.model_files import ADAPTER_BASE, ADAPTER_CONFIG, layer_count

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


def test_the_state_behind_each_block_is_the_librarys_own(base: Base) -> None:
    classifier = TextClassifier(base.model, 3, "architecture").eval()
    batch, everywhere = batch_of(base, classifier), range(len(classifier.backbone.blocks))

    with torch.inference_mode():
        found = classifier.backbone.states(batch, everywhere)
        theirs = base.model(**batch, output_hidden_states=True).hidden_states

    assert all(torch.equal(ours, state) for ours, state in zip(found, theirs, strict=True))


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_configuration_tells_the_number_of_layers(tmp_path: Path, kind: str) -> None:
    folder = write_base(tmp_path / ADAPTER_BASE, kind)
    base = load_base(folder, LABELS, "architecture", seed=0)
    (tmp_path / ADAPTER_CONFIG).write_text("{}")

    assert layer_count(folder) == layer_count(tmp_path) == len(TextClassifier(base.model, 3, "architecture").backbone.blocks) - 1


@pytest.mark.parametrize("config", ["", "{", "[]", "6", "null", '{"n_layer": "6"}', "{}"])
def test_a_configuration_that_tells_nothing_is_left_to_who_loads_the_model(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)

    assert layer_count(tmp_path) is None
    assert layer_count(tmp_path / "nowhere") is None


def test_only_gpt2_sees_nothing_to_its_right(base: Base) -> None:
    classifier = TextClassifier(base.model, 3, "mean").eval()
    batch = batch_of(base, classifier)
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    changed["input_ids"][1, 4] += 1

    with torch.inference_mode():
        before, after = classifier.backbone.run(batch)[1], classifier.backbone.run(changed)[1]

    assert torch.equal(before[:4], after[:4]) == (base.model.config.model_type == "gpt2")
    assert not torch.equal(before[4:], after[4:])


def test_a_row_sees_neither_its_padding_nor_the_rows_beside_it(base: Base) -> None:
    classifier = TextClassifier(base.model, 3, "concat").eval()
    texts = ["a new market price in the bank " * 4, "star " * 9]
    tokens = tokenize(base.tokenizer, texts, None, 16, segments=classifier.backbone.has_segments)
    assert tokens.lengths[0] == padded(tokens.lengths[1]) == 16 > tokens.lengths[1]

    with torch.inference_mode():
        beside = classifier.features(tokens.batch([0, 1]))
        padded_alone = [classifier.features(tokens.batch([row])) for row in (0, 1)]
        alone = [classifier.features(tokens.batch([row], multiple=1)) for row in (0, 1)]

    assert torch.equal(beside, torch.cat(padded_alone))
    assert torch.allclose(beside, torch.cat(alone), atol=1e-5)


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


@pytest.mark.parametrize("kind", ["bert", "electra", "gpt2"])
@pytest.mark.parametrize("block", [0, 1])
def test_embeddings_have_dropout_where_they_train(tmp_path: Path, kind: str, block: int) -> None:
    base = load_base(write_base(tmp_path / "base", kind), LABELS, "mean", seed=0)
    classifier = TextClassifier(base.model, 3, "mean")
    batch = batch_of(base, classifier)

    freezing.freeze_below(classifier, block)
    freezing.set_modes(classifier)

    assert torch.equal(classifier.backbone.run(batch, until=0), classifier.backbone.run(batch, until=0)) == (block == 1)


def test_training_on_the_processor_takes_the_attention_that_knows_dropout_where_there_is_any(base: Base) -> None:
    config = base.model.config
    has_dropout = config.model_type != "albert"

    for precision in ("fp32", "bf16"):
        assert quickest_attention(config, "cpu", precision, training=True) == ("eager" if has_dropout else "sdpa")
        assert quickest_attention(config, "cuda", precision, training=True) == "sdpa"


@pytest.mark.parametrize(
    ("device", "precision", "positions", "found"),
    [
        ("cpu", "bf16", 512, "eager"),
        ("cpu", "bf16", 8192, "sdpa"),
        ("cpu", "fp32", 512, "sdpa"),
        ("cuda", "bf16", 512, "sdpa"),
    ],
)
def test_without_gradients_attention_is_by_plain_products_in_bf16_on_the_processor_where_inputs_are_short(
    device: str, precision: str, positions: int, found: str
) -> None:
    config = BertConfig(max_position_embeddings=positions)

    assert quickest_attention(config, device, precision, training=False) == found


def test_gpt2_can_end_at_its_last_layer_alone(tmp_path: Path) -> None:
    base = load_base(write_base(tmp_path / "base", "gpt2"), LABELS, "mean", seed=0)

    assert TextClassifier(base.model, 3, "mean", layer="h.2").backbone.width == 16
    with pytest.raises(
        BadInput, match=r"^NO_LAYER a model of type 'gpt2' normalises .*: it cannot end at layer 2 — name layer 3 or leave it out"
    ):
        TextClassifier(base.model, 3, "mean", layer=2)


def test_a_text_without_a_token_is_read_as_the_end_of_one(tmp_path: Path) -> None:
    base = load_base(write_base(tmp_path / "base", "gpt2"), LABELS, "max", seed=0)
    classifier = TextClassifier(base.model, 3, "max").eval()

    tokens = tokenize(base.tokenizer, ["", "goal"], None, 48, segments=False)

    assert tokens.lengths == [1, 1]
    assert torch.isfinite(classifier.features(tokens.batch([0, 1]))).all()


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_pooling_sees_a_rows_own_tokens_only(tmp_path: Path, pooling: str) -> None:
    base = load_base(write_base(tmp_path / "base"), LABELS, pooling, seed=0)
    head = TextClassifier(base.model, 3, pooling).head
    states, mask = torch.randn(1, 4, 16), torch.tensor([[1, 1, 0, 0]])
    expected = {"mean": states[0, :2].mean(0), "max": states[0, :2].amax(0), "cls": states[0, 0]}[pooling]

    assert torch.allclose(head.pool(states, mask)[0], expected)
