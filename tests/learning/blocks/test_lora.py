"""Adapters change nothing before they are trained, little after, and nothing at all when they are merged."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learning.stages.fine_tuning import Job
from learning.tiny_model import write_base
from transfer_learning.blocks import lora
from transfer_learning.blocks.base_model import load_base
from transfer_learning.blocks.batching import tokenize
from transfer_learning.blocks.head import TextClassifier
from transfer_learning.errors import BadInput

WIDTH, LAYERS, LABELS = 16, 3, 3
KINDS = ("bert", "roberta", "distilbert", "electra", "albert", "gpt2")
TEXTS = ["the goal", "a new film on the big star", "profit"]


def classifier(folder: Path, kind: str) -> tuple[TextClassifier, dict[str, torch.Tensor]]:
    base = load_base(write_base(folder, kind), ["a", "b", "c"], "mean", seed=0)
    model = TextClassifier(base.model, LABELS, "mean").eval()
    return model, tokenize(base.tokenizer, TEXTS, None, 48, segments=model.backbone.has_segments).batch(range(len(TEXTS)))


def disturb(model: TextClassifier) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if lora.is_adapter(name):
                parameter.normal_()


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_the_base_before_the_first_step(tmp_path: Path, kind: str) -> None:
    model, batch = classifier(tmp_path / "base", kind)
    before = model.features(batch)

    lora.attach(model, 1, rank=2, alpha=4, seed=0)

    assert torch.equal(model.features(batch), before)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_adapters_answer_as_they_did_beside_the_weights(tmp_path: Path, kind: str) -> None:
    model, batch = classifier(tmp_path / "base", kind)
    names, base = [name for name, _ in model.named_parameters()], model.features(batch)
    lora.attach(model, 1, rank=2, alpha=4, seed=0)
    disturb(model)
    beside = model.features(batch)

    lora.merge(model)

    assert torch.allclose(model.features(batch), beside, atol=1e-5)
    assert not torch.allclose(base, beside, atol=1e-2)
    assert [name for name, _ in model.named_parameters()] == names


def test_gpt2s_query_key_and_value_are_one_adapted_weight(tmp_path: Path) -> None:
    model, _ = classifier(tmp_path / "base", "gpt2")
    before = copy.deepcopy(model.state_dict())
    lora.attach(model, 2, rank=2, alpha=4, seed=0)
    trained = sum(p.numel() for name, p in model.named_parameters() if lora.is_adapter(name))
    disturb(model)
    lora.merge(model)

    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]

    assert sorted(moved) == [f"model.h.{layer}.attn.c_attn.weight" for layer in (1, 2)]
    assert trained == 2 * 2 * (WIDTH + 3 * WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_above_the_smaller_side_of_a_weight_is_refused(tmp_path: Path, kind: str) -> None:
    model, _ = classifier(tmp_path / "base", kind)

    with pytest.raises(BadInput) as caught:
        lora.attach(model, 1, rank=WIDTH + 1, alpha=4, seed=0)

    assert str(caught.value) == (
        "BAD_SETTING lora_rank is 17, and no change of the weights that are adapted has a rank above 16 — at most 16"
    )
    lora.attach(model, 1, rank=WIDTH, alpha=4, seed=0)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_merged_weight_differs_by_a_product_of_that_rank(tmp_path: Path, rank: int) -> None:
    model, _ = classifier(tmp_path / "base", "bert")
    before = copy.deepcopy(model.state_dict())
    lora.attach(model, 2, rank=rank, alpha=4, seed=0)
    disturb(model)
    lora.merge(model)

    moved = {name: value - before[name] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}

    layers = [f"model.encoder.layer.{n}.attention.self.{part}.weight" for n in (1, 2) for part in ("query", "value")]
    assert sorted(moved) == sorted(layers)
    assert {int(torch.linalg.matrix_rank(change, atol=1e-4)) for change in moved.values()} == {rank}


def test_the_start_values_follow_from_the_seed_alone(tmp_path: Path) -> None:
    starts = []
    for seed, noise in ((0, 1), (0, 5), (1, 1)):
        model, _ = classifier(tmp_path / f"{seed}-{noise}", "bert")
        torch.rand(noise)
        lora.attach(model, 1, rank=2, alpha=4, seed=seed)
        starts.append(torch.cat([p.detach().flatten() for name, p in model.named_parameters() if lora.is_adapter(name)]))

    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_the_product_counts_alpha_over_rank_times(tmp_path: Path) -> None:
    changes = []
    for alpha in (4, 12):
        model, _ = classifier(tmp_path / str(alpha), "bert")
        before = model.backbone.encoder.encoder.layer[0].attention.self.query.weight.detach().clone()
        lora.attach(model, 1, rank=2, alpha=alpha, seed=0)
        disturb(model)
        lora.merge(model)
        changes.append(model.backbone.encoder.encoder.layer[0].attention.self.query.weight - before)

    assert torch.allclose(3 * changes[0], changes[1], atol=1e-5)


def test_the_stage_trains_two_small_matrices_for_each_adapted_one_and_the_head(tmp_path: Path) -> None:
    job = Job(tmp_path)

    metrics = job.run(strategy="lora", pooling="mean", epochs=60, backbone_lr=1e-2, head_lr=1e-2, lora_rank=4)

    base = load_file(tmp_path / "base" / "model.safetensors")
    published = {
        name: t for path in (tmp_path / "out" / "model").glob("model-*.safetensors") for name, t in load_file(path).items()
    }
    changed = {name for name, tensor in base.items() if not tensor.equal(published[name])}
    assert metrics["trained_weights"] == LAYERS * 2 * 4 * (WIDTH + WIDTH) + LABELS * WIDTH + LABELS
    assert metrics["train_loss"] < 0.5
    assert len(changed) == LAYERS * 2
    assert all(name.endswith(("query.weight", "value.weight")) for name in changed)
