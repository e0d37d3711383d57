"""Rank propensities against every slate that there is, one by one."""

import pytest
import torch

from blob_pyro.policies.slates import (
    EpsilonGreedySlates,
    PlackettLuceSlates,
    TwoClassSlates,
)
from tests.policies.slates.every_slate import SCORES, by_enumeration, every

WEIGHTS = torch.tensor([[1.0, 2, 0, 0, 5], [0, 0, 0, 0, 0], [1, 1, 1, 3, 2], [0, 0, 7, 0, 0], [1, 1e-9, 0, 0, 1e9]])


ALLOWED = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 1, 1]]).bool()


DISTRIBUTIONS = {
    **{
        f"epsilon {epsilon}, {slots} slots": lambda e=epsilon, s=slots: EpsilonGreedySlates(SCORES, s, e)
        for epsilon in (0.0, 0.25, 1.0)
        for slots in (1, 2, 3)
    },
    **{
        f"two classes, epsilon {epsilon}, {slots} slots": lambda e=epsilon, s=slots: TwoClassSlates(
            WEIGHTS, ALLOWED, s, e
        )
        for epsilon in (0.0, 0.25, 1.0)
        for slots in (1, 2, 3)
    },
    **{f"weights, {slots} slots": lambda s=slots: PlackettLuceSlates(SCORES.double().exp(), s) for slots in (1, 2, 3)},
}


@pytest.mark.parametrize("make", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())
def test_rank_propensities_are_sums_over_all_slates(make):
    distribution = make()
    found = every(distribution, 5)
    expected = torch.stack([by_enumeration(distribution, row) for row in range(5)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.sum(1), torch.ones(5, distribution.num_slots).double(), rtol=0, atol=1e-12)
    slates = distribution.draw(torch.Generator().manual_seed(0))
    assert all(len(set(slate)) == distribution.num_slots for slate in slates.tolist())
    picked = found.gather(1, slates.unsqueeze(-1).expand(-1, -1, distribution.num_slots)).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(distribution.propensities(slates), picked)
    assert (distribution.propensities(slates) > 0).all()
    assert (distribution.propensity_errors(slates) == 0).all()
