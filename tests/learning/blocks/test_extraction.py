"""How a frozen model runs over many rows: quicker on the processor in bf16, and left as it was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from learning.real_news import BASE, headlines
from learning.tiny_model import CONFIGS, make_rows, write_base
from transfer_learning.blocks.attention import quickest_frozen_attention
from transfer_learning.blocks.backbone import Backbone
from transfer_learning.blocks.base_model import Base, load_base
from transfer_learning.blocks.batching import tokenize
from transfer_learning.blocks.extraction import Extractor, arithmetic, extract, frozen_passes
from transfer_learning.blocks.passes import batches_of


def features(base: Base, texts: Sequence[str], precision: str, device: str = "cpu") -> torch.Tensor:
    backbone = Backbone(base.model.to(device).eval())
    tokens = tokenize(base.tokenizer, texts, None, min(base.max_length, 64), segments=backbone.has_segments)
    extractor = Extractor(backbone, tuple(range(len(backbone.blocks))), "mean", normalize=False)
    with frozen_passes(base.model, device, precision) as passes:
        return extract(lambda rows: extractor(tokens.batch(rows, device)), batches_of(tokens, device), passes, lambda *_: None)


@pytest.mark.parametrize("kind", ["MiniLM", *CONFIGS])
def test_features_in_bf16_are_those_in_fp32_but_for_rounding(tmp_path: Path, kind: str) -> None:
    folder, rows = (BASE, headlines()) if kind == "MiniLM" else (write_base(tmp_path / "base", kind), make_rows(40))
    base, texts = load_base(folder, [], "mean", seed=0), [text for text, _ in rows[:64]]

    narrow, wide = features(base, texts, "bf16"), features(base, texts, "fp32")

    assert not torch.equal(narrow, wide)
    assert float(functional.cosine_similarity(narrow, wide).min()) > 0.9995


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_from_an_accelerator_are_those_of_the_processor_but_for_rounding(precision: str) -> None:
    base, texts = load_base(BASE, [], "mean", seed=0), [text for text, _ in headlines()[:200]]

    there, here = features(base, texts, precision, "cuda"), features(base, texts, "fp32")

    assert float(functional.cosine_similarity(there, here).min()) > 0.999


def test_everything_is_as_before_afterwards_whatever_happened(tmp_path: Path) -> None:
    model = load_base(write_base(tmp_path / "base"), [], "mean", seed=0).model

    def ways() -> tuple[object, ...]:
        return model.config._attn_implementation, functional.linear, functional.layer_norm

    before = ways()
    with pytest.raises(ZeroDivisionError), frozen_passes(model, "cpu", "bf16"):
        inside = ways()
        raise ZeroDivisionError

    assert (inside[0], before[0]) == ("in_place", "sdpa")
    assert inside[2] is not before[2]
    assert ways() == before


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cuda", "bf16")])
def test_elsewhere_the_functions_are_the_librarys(tmp_path: Path, device: str, precision: str) -> None:
    model, before = load_base(write_base(tmp_path / "base"), [], "mean", seed=0).model, (functional.linear, functional.layer_norm)

    with frozen_passes(model, device, precision):
        assert (functional.linear, functional.layer_norm) == before


def test_states_stay_narrow_behind_a_normalisation_while_it_is_entered(tmp_path: Path) -> None:
    model = load_base(write_base(tmp_path / "base"), [], "mean", seed=0).model
    given, norm = torch.randn(4, 8), torch.nn.LayerNorm(8)

    with frozen_passes(model, "cpu", "bf16") as passes, passes.arithmetic(), torch.inference_mode():
        narrow = norm(given)

    assert (narrow.dtype, norm(given).dtype) == (torch.bfloat16, torch.float32)
    assert torch.allclose(narrow.float(), norm(given), atol=0.03)


@pytest.mark.parametrize("kind", CONFIGS)
def test_attention_in_place_is_the_eager_one_but_for_rounding(tmp_path: Path, kind: str) -> None:
    base = load_base(write_base(tmp_path / "base", kind), [], "mean", seed=0)
    tokens = tokenize(base.tokenizer, ["a short one", "and one that is somewhat longer than it"], None, 32, segments=False)
    backbone, found = Backbone(base.model.eval()), {}

    for attention in ("eager", quickest_frozen_attention(base.model.config, "cpu", "bf16")):
        base.model.set_attn_implementation(attention)
        with torch.inference_mode():
            found[attention] = backbone.run(tokens.batch([0, 1]))

    assert torch.allclose(found["eager"], found["in_place"], atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_gives_the_bits_of_autocast(tmp_path: Path, bias: bool) -> None:
    model = load_base(write_base(tmp_path / "base"), [], "mean", seed=0).model
    given, linear = torch.randn(4, 8, 16), torch.nn.Linear(16, 24, bias=bias)

    with arithmetic("cpu", "bf16"), torch.inference_mode():
        plain = linear(given)
    with frozen_passes(model, "cpu", "bf16") as passes, passes.arithmetic(), torch.inference_mode():
        packed = [linear(given) for _ in range(2)]

    assert packed[0].dtype == torch.bfloat16
    assert all(torch.equal(plain, found) for found in packed)
