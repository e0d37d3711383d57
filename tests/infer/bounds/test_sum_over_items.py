"""Sampled items: unbiased with a network, and still a bound without."""

import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.distributions import SoftmaxViews
from blob_pyro.guides import OffsetNetwork
from blob_pyro.infer import Bouchard, LogConcave, OneVsEach, newton_posterior
from blob_pyro.infer.bounds import sum_over_items
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
    """The offset comes from other items than those it is used with, so in expectation no bound is better than the
    best; where there are few items in all it is the best."""
    psi, rho, *parameters = story(2)
    q = posterior(*parameters, full=False)
    whole = estimate(make(), psi, rho, q, 1)[0]
    some = (VIEWS >= 0).any(-1)
    for num_negatives in (5, 1000):  # the offset is from all of so few items: the best
        draws = estimate(make(num_negatives=num_negatives), psi, rho, q, 500)
        error = draws.std(0) / 500**0.5
        assert (draws.mean(0) < whole + 4 * error)[some].all()
        assert (draws.mean(0) > whole - 4 * error)[some].all()


@pytest.mark.parametrize("make", [Bouchard, LogConcave])
def test_an_offset_from_many_items_is_a_bound_nearly_the_best(make, monkeypatch):
    """In a catalogue of 2,000, by sums over all of it: below the exact expectation, and closer than from 16 items."""
    num_items = 2000
    torch.manual_seed(8)
    psi = torch.randn(num_items, 2).double() * torch.tensor([1.4, 0.5])
    rho = torch.randn(num_items).double()
    lengths = torch.tensor([1, 1, 3, 3, 10, 10])
    views = SoftmaxViews(torch.randn(6, 2).double(), psi, rho, lengths)
    value = views.sample()
    sessions = [v[v >= 0].tolist() for v in value]
    q = newton_posterior(Histories.from_sequences(sessions, num_items), psi, rho)
    interests = q.sample((500,))
    draws = torch.stack([(interests[:, n] @ psi.T + rho).log_softmax(-1)[:, s].sum(-1) for n, s in enumerate(sessions)])
    exact, error = draws.mean(-1), draws.std(-1) / 500**0.5
    best, lost = make().expected_log_prob(views, q, value), {}
    for number in (1, 1024):
        monkeypatch.setattr(sum_over_items, "OFFSET_ITEMS", number)
        bounds = []
        for _ in range(6):
            offset = make(num_negatives=16)._given_offset(views, q, value)
            bounds.append(make(offsets=lambda mean, variance, offset=offset: offset).expected_log_prob(views, q, value))
        at = torch.stack(bounds)
        assert (at <= best + 1e-4).all()
        assert (at <= exact + 4 * error).all()
        lost[number] = (best - at).mean(0)
    assert (lost[1024] < 0.3 * lost[1]).all()
    assert (lost[1] > 1e-3).all()
