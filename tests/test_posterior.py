"""ClickLogits against draws of the parameters pushed through the paper's formula."""

import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

from blob_pyro.distributions import MatrixNormal
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.posterior import ClickLogits

P, K, S = 5, 2, 200_000


def posterior(zeta):
    """Every scale different, zeta important."""
    kappa = dist.Normal(torch.linspace(-1, 1, P).double(), torch.linspace(0.1, 0.9, P).double()).to_event(1)
    w_a, w_b = dist.Normal(torch.tensor(0.4).double(), 0.8), dist.Normal(torch.tensor(0.9).double(), 0.5)
    return {W_A: w_a, W_B: w_b, W_C: dist.Normal(torch.tensor(-3.0).double(), 0.3), KAPPA: kappa, ZETA: zeta}


def zetas():
    loc = torch.tensor([[0.5, -1.0], [0.2, 0.7]]).double()
    row, column = torch.tensor([[0.4, 0], [0.9, 1.2]]).double(), torch.tensor([[1.0, 0], [-0.5, 0.3]]).double()
    return {
        "independent": dist.Normal(loc, torch.tensor([[0.2, 1.0], [0.6, 0.1]]).double()).to_event(2),
        "matrix normal": MatrixNormal(loc, row, column),
    }


@pytest.fixture
def problem():
    torch.manual_seed(2)
    psi = torch.randn(P, K).double() * torch.tensor([0.5, 1.5])
    return psi, torch.linalg.cholesky(psi.mT @ psi / P), torch.randn(3, K).double()


def by_hand(q, psi, factor, interest):
    """S x N x P logits, from draws of every site."""
    draws = {name: d.sample((S,)) for name, d in q.items()}
    beta = softplus(draws[W_A])[:, None, None] * psi + softplus(draws[W_B])[:, None, None] * (
        psi @ draws[ZETA] @ factor.mT
    )
    return interest @ beta.mT + (draws[KAPPA] + draws[W_C][:, None]).unsqueeze(1)


@pytest.mark.parametrize("name", ["independent", "matrix normal"])
def test_moments_and_draws(problem, name):
    psi, factor, interest = problem
    q = posterior(zetas()[name])
    d = ClickLogits(q, psi, factor, interest)
    assert (d.batch_shape, d.event_shape) == ((3,), (P,))
    reference = by_hand(q, psi, factor, interest)
    own = d.sample((S,))
    assert own.shape == (S, 3, P)
    for draws in (reference, own):
        assert ((draws.mean(0) - d.mean).abs() < 4.5 * d.variance.sqrt() / S**0.5).all()
        fourth = ((draws - draws.mean(0)) ** 4).mean(0)
        error = (fourth - d.variance**2).sqrt() / S**0.5
        assert ((draws.var(0) - d.variance).abs() < 4.5 * error).all()
    for n in range(3):  # items are correlated, in the same way
        expected = reference[:, n].mT.cov()
        assert torch.allclose(own[:, n].mT.cov(), expected, atol=0.04 * expected.diagonal().max())
        assert expected[0, 1].abs() > 0.01


def test_given_what_is_shared_items_are_independent(problem):
    psi, factor, interest = problem
    q = posterior(zetas()["matrix normal"])
    d = ClickLogits(q, psi, factor, interest)
    shared = torch.zeros(1, d.num_factors).double()
    deviation = interest @ factor @ q[ZETA].mean.mT @ psi.mT
    expected = softplus(q[W_A].mean) * interest @ psi.mT + softplus(q[W_B].mean) * deviation + q[KAPPA].mean
    assert torch.allclose(d.given_shared(shared), expected)


def test_picking_contexts(problem):
    psi, factor, interest = problem
    d = ClickLogits(posterior(zetas()["independent"]), psi, factor, interest)
    assert torch.allclose(d[1:].mean, d.mean[1:])
    assert torch.allclose(d[:1].expand((4,)).variance, d.variance[:1].expand(4, -1))


@pytest.mark.parametrize(
    ("site", "value", "message"),
    [
        (W_A, dist.Laplace(0.0, 1.0), "site 'w_a': click_logits needs a normal"),
        (KAPPA, dist.Laplace(torch.zeros(P), 1.0).to_event(1), "site 'kappa'"),
        (ZETA, dist.Laplace(torch.zeros(K, K), 1.0).to_event(2), "site 'zeta': no Gaussian law"),
    ],
)
def test_other_families_are_refused_by_name(problem, site, value, message):
    q = {**posterior(zetas()["independent"]), site: value}
    with pytest.raises(ValueError, match=message):
        ClickLogits(q, *problem)
