"""Plackett-Luce's rank probabilities, to the last digits of exact fractions."""

import itertools
from fractions import Fraction

import pytest
import torch

from blob_pyro.policies.slates import (
    PlackettLuceSlates,
)
from blob_pyro.propensity.kernels.plackett_luce import plackett_luce_rank_probs
from tests.policies.slates.every_slate import by_enumeration, every


def in_fractions(weights, num_ranks):
    weights = [Fraction(w) for w in weights]
    found = [[Fraction(0)] * num_ranks for _ in weights]
    for order in itertools.permutations([i for i, w in enumerate(weights) if w], num_ranks):
        chance, rest = Fraction(1), sum(weights)
        for item in order:
            chance, rest = chance * weights[item] / rest, rest - weights[item]
        for rank, item in enumerate(order):
            found[item][rank] += chance
    return torch.tensor([[float(p) for p in row] for row in found], dtype=torch.float64)


@pytest.mark.parametrize(
    "weights",
    [
        [1, 2, 3, 4, 5], [1, 1e-6, 1e-12, 1e-3, 0], [1, 1e-100, 1e-200, 1e-250, 3], [1e-9, 1e-9, 1, 0, 0], [1] * 6,
        [7, 2, 1], [1, 0, 1e-285, 1e-284, 2],
    ],
    ids=["near", "far", "very far", "three", "equal", "as many as ranks", "at the end of time"],
)  # fmt: skip
def test_plackett_luce_to_the_last_digits(weights):
    found = plackett_luce_rank_probs(torch.tensor([weights], dtype=torch.float64), 3)[0]
    torch.testing.assert_close(found, in_fractions(weights, 3), rtol=1e-12, atol=1e-15)


def test_items_without_a_weight_change_nothing():
    weight = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[1, 3:], weight[2, 0] = 0, 0
    wide = torch.zeros(4, 40, dtype=torch.float64)
    places = torch.tensor([[1, 9, 20, 30, 39], [0, 1, 2, 3, 4], [5, 39, 7, 12, 1], [3, 6, 9, 12, 15]])
    wide.scatter_(1, places, weight)
    found = plackett_luce_rank_probs(wide, 3)
    expected = plackett_luce_rank_probs(weight, 3)
    torch.testing.assert_close(
        found.gather(1, places.unsqueeze(-1).expand(-1, -1, 3)), expected, rtol=1e-12, atol=1e-15
    )
    torch.testing.assert_close(found.sum(1), expected.sum(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("smallest", [5e-324, 1e-310, 1e-300, 1e-291])
def test_weights_beyond_what_time_can_tell_apart(smallest):
    distribution = PlackettLuceSlates(torch.tensor([[1.0, smallest, 2e-320, 0.0, 1e-3]], dtype=torch.float64), 3)
    found = every(distribution, 1)
    torch.testing.assert_close(found[0], by_enumeration(distribution, 0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("num_items", [1, 2, 3, 31, 64, 1000])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_plackett_luce_of_any_size_adds_up(num_items, num_ranks):
    weight = torch.rand(3, num_items, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    found = plackett_luce_rank_probs(weight, num_ranks)
    ranks = min(num_items, num_ranks)
    torch.testing.assert_close(found.sum(1)[:, :ranks], torch.ones(3, ranks).double(), rtol=0, atol=1e-12)
    assert (found[..., ranks:] == 0).all()
    assert (found.sum(-1) <= 1 + 1e-12).all()
