"""Draws of rows: a part of a batch gets the numbers that it has in the whole, and the generator ends where it would."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import dropout

from blob_pyro.ops.row_noise import RowPlate, per_row, placed, rows_of_a_whole

POSITIONS, WHOLE = torch.tensor([1, 4, 18]), 20
DRAWS = {
    "in place": lambda n: torch.empty(n, 5).normal_(),
    "in place, with probabilities": lambda n: torch.empty(n, 5).bernoulli_(torch.full((n, 5), 0.5)),
    "like": lambda n: torch.randn_like(torch.empty(n, 5)),
    "of a size": lambda n: torch.rand(n, 5),
    "of a size as one": lambda n: torch.randn((n, 5)),
    "of a named size": lambda n: torch.randn(size=(n, 5)),
    "whole numbers": lambda n: torch.randint(9, (n, 5)),
    "with parameters": lambda n: torch.normal(torch.zeros(n, 5), torch.ones(n, 5)),
    "dropped": lambda n: dropout(torch.ones(n, 5)),
    "a distribution": lambda n: dist.Normal(torch.zeros(n, 5), 2.0).to_event(1).rsample(),
    "a wide distribution": lambda n: dist.MultivariateNormal(torch.zeros(n, 5), torch.eye(5)).rsample(),
    "a gamma": lambda n: dist.Gamma(torch.full((n, 5), 2.0), 1.0).rsample(),
    "a plate": lambda n: _in_plate(n),
}


def _in_plate(n):
    with RowPlate("rows", 100, subsample=torch.arange(n)):
        return pyro.sample("x", dist.Normal(torch.zeros(n), 1.0))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_rows_get_the_numbers_that_they_have_in_the_whole(draw):
    torch.manual_seed(7)
    whole, after = draw(WHOLE), torch.randn(3)
    torch.manual_seed(7)
    with rows_of_a_whole(placed(POSITIONS, WHOLE)), per_row():
        part = draw(len(POSITIONS))
    assert torch.equal(part, whole[POSITIONS])
    assert torch.equal(torch.randn(3), after), "what is drawn next is the same, too"


def test_rows_may_be_another_dimension():
    torch.manual_seed(7)
    whole = torch.empty(4, WHOLE, 3).normal_()
    torch.manual_seed(7)
    with rows_of_a_whole(placed(POSITIONS, WHOLE)), per_row(1):
        assert torch.equal(torch.empty(4, len(POSITIONS), 3).normal_(), whole[:, POSITIONS])


def test_gradients_go_through():
    scale = torch.full((3, 5), 2.0, requires_grad=True)
    torch.manual_seed(7)
    with rows_of_a_whole(placed(POSITIONS, WHOLE)), per_row():
        dist.Normal(torch.zeros(3, 5), scale).rsample().sum().backward()
    torch.manual_seed(7)
    assert torch.allclose(scale.grad, torch.empty(WHOLE, 5).normal_()[POSITIONS])


def test_what_is_drawn_for_all_rows_is_left_alone():
    torch.manual_seed(7)
    expected = torch.randn(6), torch.randn(3)
    torch.manual_seed(7)
    with rows_of_a_whole(placed(POSITIONS, WHOLE)):
        with per_row():
            first = torch.randn(6)
        assert torch.equal(first, expected[0])
        assert torch.equal(torch.randn(3), expected[1]), "not per row, whatever its size"


def test_a_whole_batch_needs_none_of_this():
    assert placed(torch.arange(5), 5) is None
    assert placed(torch.tensor([1, 0]), 2) is not None
