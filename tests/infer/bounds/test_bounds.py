"""Bounds are bounds: below the exact likelihood by quadrature, tight at their optimum, unbiased when sampled."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer import BOUNDS, Bouchard, LogConcave, OneVsEach, Reparameterized
from blob_pyro.ops import row_chunks
from tests.infer.bounds.stories import VIEWS, B, estimate, log_likelihood, posterior, story

NAMES = list(BOUNDS)


def grid(embedding_dim):
    axis = torch.linspace(-9, 9, 241, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * embedding_dim).view(-1, embedding_dim)
    return points, embedding_dim * math.log(18 / 240)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("embedding_dim", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_never_above_the_exact_likelihood(name, embedding_dim, full):
    """Neither above the expectation it bounds, nor, less the divergence, above the evidence."""
    psi, rho, *parameters = story(embedding_dim)
    q = posterior(*parameters, full)
    prior = dist.Normal(torch.zeros(embedding_dim).double(), 1.0).to_event(1)
    points, log_cell = grid(embedding_dim)
    likelihood = log_likelihood(points, psi, rho)
    evidence = (likelihood + prior.log_prob(points)[:, None]).logsumexp(0) + log_cell
    expectation = ((q.log_prob(points[:, None]) + log_cell).exp() * likelihood).sum(0)
    draws = estimate(BOUNDS[name](), psi, rho, q, 500)
    mean, error = draws.mean(0), draws.std(0) / 500**0.5
    assert (mean <= expectation + 4 * error + 1e-9).all()
    assert (mean - kl_divergence(q, prior) <= evidence + 4 * error + 1e-9).all()
    if name == "reparameterized":  # not a bound on the expectation: the expectation
        assert ((mean - expectation).abs() <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_finite_differences(name, full):
    psi, rho, loc, scale, below = story(2)
    noise = torch.randn(B, 2).double()
    lengths = (VIEWS >= 0).sum(-1)

    def value(psi, rho, loc, scale):
        q = posterior(loc, scale, below, full)
        omega = loc + ((below + scale.diag_embed()) @ noise.unsqueeze(-1)).squeeze(-1) if full else loc + scale * noise
        return BOUNDS[name]().expected_log_prob(SoftmaxViews(omega, psi, rho, lengths), q, VIEWS)

    inputs = tuple(t.requires_grad_() for t in (psi, rho, loc, scale))
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_rows_at_a_time_changes_nothing(name, monkeypatch):
    psi, rho, *parameters = story(2)
    for t in (psi, rho):
        t.requires_grad_()
    q, omega = posterior(*parameters, full=True), torch.randn(B, 2).double()
    results = []
    for max_elements in (1 << 22, 1):
        monkeypatch.setattr(row_chunks, "MAX_ELEMENTS", max_elements)
        views = SoftmaxViews(omega, psi, rho, (VIEWS >= 0).sum(-1))
        value = BOUNDS[name]().expected_log_prob(views, q, VIEWS)
        results.append((value, *torch.autograd.grad(value.sum(), (psi, rho))))
    for whole, chunked in zip(*results):
        assert torch.allclose(whole, chunked, rtol=1e-10)


@pytest.mark.parametrize("make", [Bouchard, LogConcave])
def test_a_distribution_without_closed_form_is_refused(make):
    psi, rho, loc, scale, _ = story(2)
    q = dist.Laplace(loc, scale).to_event(1)
    with pytest.raises(TypeError, match=r"this bound needs a Gaussian posterior .* got Independent; use bound='repar"):
        estimate(make(), psi, rho, q, 1)
    assert estimate(Reparameterized(), psi, rho, q, 1).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reparameterized(0), "num_samples: must be at least 1, got 0"),
        (lambda: Bouchard(num_negatives=0), "num_negatives: must be at least 1, got 0"),
        (lambda: OneVsEach(num_negatives=-1), "num_negatives: must be at least 1, got -1"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
