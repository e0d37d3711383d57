"""Epsilon-greedy slates, three cases written out; every slate that there is stands in test_base."""

import pytest
import torch

from blob_pyro.policies.slates import EpsilonGreedySlates
from tests.policies.slates.every_slate import every


def test_without_exploration_the_best_come_in_order():
    found = every(EpsilonGreedySlates(torch.tensor([[3.0, 1.0, 2.0]]), 2, 0.0), 1)[0]
    assert found.tolist() == [[1, 0], [0, 0], [0, 1]]


def test_two_slots_by_hand():
    e = 0.3
    found = every(EpsilonGreedySlates(torch.tensor([[3.0, 1.0, 2.0]]), 2, e), 1)[0]
    best, other = 1 - e + e / 3, e / 3
    assert found[:, 0].tolist() == pytest.approx([best, other, other], rel=1e-14)
    second = [2 * other * (1 - e / 2), best * e / 2 + other * e / 2, best * (1 - e / 2) + other * e / 2]
    assert found[:, 1].tolist() == pytest.approx(second, rel=1e-14)


def test_fewer_items_than_slots_are_named():
    scores = torch.tensor([[1.0, 2.0], [1.0, -torch.inf]])
    with pytest.raises(ValueError, match="8"):
        EpsilonGreedySlates(scores, 2, 0.1, first=7)


@pytest.mark.parametrize("ties", [False, True])
def test_filled_at_once_as_slot_by_slot(ties):
    source = torch.Generator().manual_seed(3)
    scores = torch.randn(50, 12, generator=source)
    scores = scores.round() if ties else scores
    scores[:, 4] = -torch.inf
    slates = EpsilonGreedySlates(scores, 3, 0.0)
    uniform = torch.rand(50, 3, generator=source, dtype=torch.float64)
    one_by_one = super(EpsilonGreedySlates, slates).fill(uniform)
    assert torch.equal(slates.fill(uniform), one_by_one)
    # Few items are compared, many are sorted.
    both = torch.arange(12).expand(50, -1)
    torch.testing.assert_close(slates.rank_probs(both[:, :5]), slates.rank_probs(both)[:, :5], rtol=0, atol=1e-15)
