"""Sampled items: unbiased with a network, and still a bound without."""

import math

import pytest
import torch

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.guides import OffsetNetwork
from blob_pyro.infer import Bouchard, LogConcave, OneVsEach
from tests.infer.bounds.stories import VIEWS, P, estimate, posterior, story


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("make", [Bouchard, LogConcave, OneVsEach])
def test_sampled_items_are_unbiased(make, full):
    """Mean over many draws of the sampled bound, against the bound over all items, same offset and same omega."""
    torch.manual_seed(4)
    psi, rho, *parameters = story(2)
    q = posterior(*parameters, full)
    options = {} if make is OneVsEach else {"offsets": OffsetNetwork(P, 2).double()}
    omega = q.rsample()
    views = SoftmaxViews(omega, psi, rho, (VIEWS >= 0).sum(-1))
    with torch.no_grad():
        whole = make(**options).expected_log_prob(views, q, VIEWS)
        sampled = make(num_negatives=3, **options)
        draws = torch.stack([sampled.expected_log_prob(views, q, VIEWS) for _ in range(1500)])
    some = (VIEWS >= 0).any(-1)
    error = draws.std(0) / 1500**0.5
    assert ((draws.mean(0) - whole).abs() < 4 * error + 1e-12)[some].all()
    assert (error[some] > 0).all()
    assert (draws[:, ~some] == 0).all()


@pytest.mark.parametrize("make", [Bouchard, LogConcave])
def test_without_a_network_the_sampled_bound_is_still_a_bound(make):
    """The offset comes from other items than those it is used with, so in expectation no bound is better than the best;
    with many items it is nearly that."""
    psi, rho, *parameters = story(2)
    q = posterior(*parameters, full=False)
    whole = estimate(make(), psi, rho, q, 1)[0]
    views = (VIEWS >= 0).sum(-1)
    some = views > 0
    for num_negatives, gap in ((5, math.inf), (1000, 0.05)):
        draws = estimate(make(num_negatives=num_negatives), psi, rho, q, 500)
        error = draws.std(0) / 500**0.5
        assert (draws.mean(0) < whole + 4 * error)[some].all()
        assert (draws.mean(0) > whole - gap * views - 4 * error)[some].all()
