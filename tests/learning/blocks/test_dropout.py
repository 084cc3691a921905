"""Dropout masks: their share, their mean, where they come from, and that every dropout of a training step is drawn so."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from transfer_learning.blocks.dropout import dropout, plain_dropout, quick_dropout

VALUES = 400_000


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_rate_is_met_and_the_mean_stays(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(VALUES, dtype=dtype), rate)
    dropped = float((found == 0).float().mean())
    assert dropped == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / VALUES))
    kept = found[found != 0].double()
    assert kept.unique().numel() == 1
    assert float(kept[0]) == pytest.approx(1 / (1 - rate), rel=4e-3 if dtype is torch.bfloat16 else 1e-3)
    assert found.dtype is dtype


def test_each_place_of_a_random_number_is_as_often_dropped_as_the_others() -> None:
    torch.manual_seed(1)
    rate = 0.1
    by_place = (dropout(torch.ones(VALUES), rate).view(-1, 4) == 0).float().mean(dim=0)
    assert by_place.tolist() == pytest.approx([rate] * 4, abs=4 * math.sqrt(rate * (1 - rate) / (VALUES / 4)))


def test_neighbours_do_not_depend_on_each_other() -> None:
    torch.manual_seed(2)
    gone = (dropout(torch.ones(VALUES), 0.5) == 0).double() - 0.5
    for distance in (1, 2, 3, 4, 8):
        assert abs(float((gone[distance:] * gone[:-distance]).mean())) * 4 < 4 / math.sqrt(VALUES)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 3, 5)])
def test_every_shape_comes_back_as_it_was(shape: tuple[int, ...]) -> None:
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_layouts_that_are_not_contiguous_keep_their_values() -> None:
    given = torch.arange(1.0, 601.0).view(20, 30).t()
    found = dropout(given, 0.5)
    kept = found != 0
    assert torch.equal(found[kept], given[kept] * 2)


def test_the_mask_follows_from_the_seed() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(1000), 0.5)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_the_gradient_goes_where_the_value_went() -> None:
    given = torch.ones(1000, requires_grad=True)
    found = dropout(given, 0.3)
    found.sum().backward()
    assert given.grad is not None
    assert torch.equal(given.grad, found.detach())


@pytest.mark.parametrize(("rate", "training", "value"), [(0.0, True, 1.0), (1.0, True, 0.0), (0.5, False, 1.0)])
def test_what_drops_nothing_or_everything_draws_nothing(rate: float, training: bool, value: float) -> None:
    before = torch.get_rng_state()
    assert torch.equal(dropout(torch.ones(100), rate, training), torch.full((100,), value))
    if not training:
        assert torch.equal(torch.get_rng_state(), before)


def test_modules_and_functions_are_reached_while_it_is_entered_and_not_after() -> None:
    module = nn.Dropout(0.5)

    def drawn() -> list[torch.Tensor]:
        torch.manual_seed(5)
        return [module(torch.ones(64)), functional.dropout(torch.ones(64), 0.5)]

    torch.manual_seed(5)
    ours = [dropout(torch.ones(64), 0.5), dropout(torch.ones(64), 0.5)]
    theirs = drawn()
    with quick_dropout("cpu"):
        assert all(map(torch.equal, drawn(), ours))
    assert all(map(torch.equal, drawn(), theirs))
    assert not all(map(torch.equal, theirs, ours))


def test_what_is_left_by_an_error_is_as_it_was() -> None:
    with pytest.raises(MemoryError), quick_dropout("cpu"):
        raise MemoryError
    assert functional.dropout is plain_dropout


def test_only_a_step_on_the_processor_enters_it() -> None:
    with quick_dropout("cuda"):
        assert functional.dropout is plain_dropout
    with quick_dropout("cpu"):
        assert functional.dropout is dropout
