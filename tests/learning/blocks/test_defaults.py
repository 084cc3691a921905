"""How epochs, batch and rates follow from the labels and the model's width where nobody set them."""

from __future__ import annotations

from typing import Any

import pytest

from transfer_learning.blocks.defaults import MOST_EPOCHS, Plan, resolve
from transfer_learning.errors import BadInput
from transfer_learning.specs import FineTuneSpec


def plan(counts: list[int], new_share: float = 1.0, **settings: Any) -> Plan:
    labels = [f"class {number}" for number, count in enumerate(counts) for _ in range(count)]
    return resolve(FineTuneSpec(**settings), labels, 384, pairs=False, new_share=new_share)


@pytest.mark.parametrize(
    ("counts", "batch_size", "epochs"),
    [
        ([16] * 5, 8, 8),
        ([64] * 5, 16, 4),
        ([96] * 5, 16, 3),
        ([40, 40], 8, 8),
        ([20] * 20, 16, 13),
        ([88, 47, 7, 7, 6, 5], 16, MOST_EPOCHS),
        ([153, 106, 37, 24], 16, 5),
        ([2000] * 20, 32, 3),
        ([4998, 1], 16, 3),
        ([8] * 5, 8, MOST_EPOCHS),
        ([1500, *[12] * 19], 16, 4),
    ],
)
def test_epochs_follow_from_the_rows_and_from_how_long_one_waits_for_a_class(
    counts: list[int], batch_size: int, epochs: int
) -> None:
    found = plan(counts)

    assert (found.batch_size, found.epochs) == (batch_size, epochs)


@pytest.mark.parametrize("strategy", ["full", "top_layers", "lora"])
def test_many_classes_take_longer_where_the_head_starts_with_the_blocks(strategy: str) -> None:
    unfreeze = {"unfreeze_blocks": 2} if strategy == "top_layers" else {}

    assert plan([20] * 20, strategy=strategy, **unfreeze).epochs == 13


@pytest.mark.parametrize("strategy", ["probe_then_fine_tune", "gradual_unfreeze"])
def test_and_not_where_it_was_trained_before_them(strategy: str) -> None:
    assert plan([20] * 20, strategy=strategy).epochs == 3


@pytest.mark.parametrize("strategy", ["full", "top_layers", "lora", "gradual_unfreeze"])
@pytest.mark.parametrize(("new_share", "pace", "epochs"), [(0.0, 0.1, 3), (0.05, 0.1, 3), (0.5, 0.5, 10), (1.0, 1.0, 16)])
def test_an_earlier_version_goes_on_with_the_rate_and_the_steps_of_what_is_new(
    strategy: str, new_share: float, pace: float, epochs: int
) -> None:
    settings: dict[str, Any] = {"strategy": strategy} | ({"unfreeze_blocks": 2} if strategy == "top_layers" else {})
    counts = [8, 8, 8, 8]

    anew, gone_on = plan(counts, **settings), plan(counts, new_share, **settings)

    assert gone_on.backbone_lr == pytest.approx(anew.backbone_lr * pace)
    assert gone_on.head_lr == pytest.approx(anew.head_lr * pace)
    assert gone_on.epochs == epochs


def test_a_pooled_head_starts_anew() -> None:
    assert plan([16] * 5, 0.05, pooling="mean") == plan([16] * 5, pooling="mean")


@pytest.mark.parametrize(("new_share", "share"), [(0.05, 0.1), (0.5, 0.5), (1.0, 1.0)])
def test_an_own_head_that_trains_alone_first_goes_on_as_slowly(new_share: float, share: float) -> None:
    settings: dict[str, Any] = {"strategy": "probe_then_fine_tune", "pooling": "architecture"}
    anew, gone_on = plan([16] * 5, **settings), plan([16] * 5, new_share, **settings)

    assert (gone_on.head_lr, gone_on.head_epochs) == (pytest.approx(anew.head_lr * share), anew.head_epochs * share)


@pytest.mark.parametrize("settings", [{"classifier": "linear_svm"}, {"normalize": True}, {"layer": 1}])
def test_settings_of_a_pooled_head_do_not_apply_to_pairs(settings: dict[str, Any]) -> None:
    spec = FineTuneSpec(strategy="linear_probe", **settings)

    with pytest.raises(BadInput, match="^BAD_SETTING with pairs of texts the model's own head trains, which takes no "):
        resolve(spec, ["a", "b"], 384, pairs=True)


@pytest.mark.parametrize("new_share", [1.0, 0.0])
def test_what_was_set_stays(new_share: float) -> None:
    found = plan([20] * 20, new_share, epochs=2, batch_size=4, backbone_lr=1e-5, head_lr=1e-4)

    assert (found.epochs, found.batch_size, found.backbone_lr, found.head_lr) == (2, 4, 1e-5, 1e-4)


@pytest.mark.parametrize(("width", "rate"), [(384, 2e-4), (768, 5e-5), (1024, 2.8e-5)])
def test_the_rate_falls_with_the_square_of_the_width(width: int, rate: float) -> None:
    assert resolve(FineTuneSpec(), ["a", "b"], width, pairs=False).backbone_lr == pytest.approx(rate, rel=0.01)
