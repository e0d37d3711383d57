"""The arrowhead guide: what it samples, how it is told of the weights, and that it is a mean field until then."""

from __future__ import annotations

import pytest
import torch

from blob_pyro.distributions import ArrowheadNormal
from blob_pyro.guides import ArrowheadNormalGuide, NormalGuide
from blob_pyro.guides.takeover import guide_taking_over
from blob_pyro.models import BanditModel, BanditPriors, VectorPrior
from blob_pyro.testing import check_guide

ITEMS, SIZE = 4, 2


def told(num_items: int = ITEMS) -> ArrowheadNormalGuide:
    """A guide that knows how kappa and zeta follow the weights."""
    guide = ArrowheadNormalGuide(BanditModel(torch.eye(6)[:num_items, :SIZE] + 0.1, BanditPriors(kappa_scale=0.5)))
    loc = {"w_a": torch.tensor(0.5), "w_b": torch.tensor(-3.0), "w_c": torch.tensor(-2.0)}
    covariance = torch.tensor([[0.5, 0.1, 0.0], [0.1, 0.8, -0.2], [0.0, -0.2, 0.3]])
    slope = {"kappa": torch.full((num_items, 3), -0.4), "zeta": torch.arange(12.0).view(SIZE, SIZE, 3) / 10}
    loc.update(kappa=torch.arange(num_items) / 10, zeta=torch.eye(SIZE))
    guide.correlate(loc, covariance, slope, torch.full((SIZE, SIZE), 0.7))
    return guide


def test_it_keeps_the_contract() -> None:
    check_guide("arrowhead_normal")


def test_it_is_independent_normals_until_it_is_told() -> None:
    model = BanditModel(torch.eye(ITEMS)[:, :SIZE] + 0.1)
    guide = ArrowheadNormalGuide(model)
    assert {n: type(d) for n, d in ((n, guide.site_posterior(n)) for n in guide.order)} == {
        n: type(d) for n, d in ((n, NormalGuide(model).site_posterior(n)) for n in guide.order)
    }
    torch.manual_seed(0)
    mine = guide(None)
    torch.manual_seed(0)
    other = NormalGuide(model)(None)
    assert all(torch.equal(mine[name], other[name]) for name in other)


def test_draws_have_the_covariance_it_was_told() -> None:
    guide = told()
    with torch.no_grad():
        draws = guide.multivariate().sample((200_000,))
        assert draws.shape[1] == 3 + SIZE**2 + ITEMS
        covariance = torch.cov(draws.mT)
        weights = torch.tensor([[0.5, 0.1, 0.0], [0.1, 0.8, -0.2], [0.0, -0.2, 0.3]])
        torch.testing.assert_close(covariance[:3, :3], weights, atol=0.02, rtol=0)
        slope = torch.cat([torch.arange(12.0).view(SIZE**2, 3) / 10, torch.full((ITEMS, 3), -0.4)])
        torch.testing.assert_close(covariance[3:, :3], slope @ weights, atol=0.03, rtol=0)
        own = torch.cat([torch.full((SIZE**2,), 0.49), guide.kappa_scale.square()])
        expected = (slope @ weights @ slope.mT).diagonal() + own
        torch.testing.assert_close(covariance.diagonal()[3:], expected, atol=0.05, rtol=0)
        torch.testing.assert_close(draws.mean(0)[3:7], torch.eye(SIZE).flatten(), atol=0.02, rtol=0)


def test_saved_numbers_make_it_what_it_was() -> None:
    guide, fresh = told(), ArrowheadNormalGuide(BanditModel(torch.eye(ITEMS)[:, :SIZE] + 0.1))
    fresh.load_state_dict(guide.state_dict())
    assert fresh.is_correlated
    assert torch.equal(fresh.multivariate().covariance_matrix, guide.multivariate().covariance_matrix)
    guide.to_mean_field()
    fresh.load_state_dict(guide.state_dict())
    assert not fresh.is_correlated


def test_new_items_come_from_their_prior() -> None:
    old = told()
    larger = BanditModel(torch.eye(6)[:, :SIZE] + 0.1, BanditPriors(kappa_scale=0.5))
    new = guide_taking_over(old, lambda: ArrowheadNormalGuide(larger), larger.site_priors())
    before, after = old.multivariate().covariance_matrix, new.multivariate().covariance_matrix
    known = 3 + SIZE**2 + ITEMS
    torch.testing.assert_close(after[:known, :known], before)
    torch.testing.assert_close(after[known:, known:], 0.25 * torch.eye(2))
    assert not after[known:, :known].any()


@pytest.mark.parametrize("num_shared", [2, 7])
def test_a_vector_of_another_shape_is_refused(num_shared: int) -> None:
    size = 3 + SIZE**2 + ITEMS
    distribution = ArrowheadNormal(
        torch.zeros(size),
        torch.eye(num_shared),
        torch.zeros(size - num_shared, num_shared),
        torch.ones(size - num_shared),
    )
    shapes = {"w_a": (), "w_b": (), "w_c": (), "zeta": (SIZE, SIZE), "kappa": (ITEMS,)}
    model = BanditModel(torch.eye(ITEMS)[:, :SIZE] + 0.1, BanditPriors(vector=VectorPrior(distribution, shapes)))
    with pytest.raises(
        ValueError, match=r"guide 'arrowhead_normal': the prior is one ArrowheadNormal over .* use 'low_rank'"
    ):
        ArrowheadNormalGuide(model)


def test_only_what_is_random_is_sampled() -> None:
    guide = ArrowheadNormalGuide(BanditModel(torch.eye(ITEMS)[:, :SIZE] + 0.1, BanditPriors(w_b=-6.0, zeta=0.0)))
    assert guide.weights == ("w_a", "w_c")
    guide.correlate({}, torch.tensor([[0.5, 0.1], [0.1, 0.3]]), {"kappa": torch.ones(ITEMS, 2)}, None)
    torch.testing.assert_close(guide.multivariate().covariance_matrix[2, :2], torch.tensor([0.6, 0.4]))
