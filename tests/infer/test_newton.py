"""Newton's interests against quadrature on a grid, where EM's fall short; and that they arrive from anywhere."""

import math

import pyro.distributions as dist
import pytest
import torch

from blob_pyro.data import Histories
from blob_pyro.distributions import SoftmaxViews
from blob_pyro.infer import expectation_maximization, newton_posterior
from tests.infer.em_problems import K

P = 40
LENGTHS = torch.tensor([0, 1, 3, 10, 20, 20, 20, 60])


def story(num_items=P, embedding_dim=2):
    """Items with unequal scales, some popular, and sessions as the model tells them."""
    generator = torch.Generator().manual_seed(7)
    scales = torch.tensor([1.4, 0.5], dtype=torch.float64)[:embedding_dim]
    psi = torch.randn(num_items, embedding_dim, generator=generator, dtype=torch.float64) * scales
    rho = torch.randn(num_items, generator=generator, dtype=torch.float64)
    omega = torch.randn(len(LENGTHS), embedding_dim, generator=generator, dtype=torch.float64)
    torch.manual_seed(3)
    views = SoftmaxViews(omega, psi, rho, LENGTHS).sample()
    return psi, rho, Histories.from_sequences([v[v >= 0].tolist() for v in views], num_items=num_items)


def log_posterior(omega, psi, rho, histories):
    """By torch's own log-softmax and normal: ``... x N`` for ``... x K``."""
    log_probs = (omega @ psi.T + rho).log_softmax(-1)
    prior = dist.Normal(0.0, 1.0).expand([psi.shape[-1]]).to_event(1)
    return log_probs @ histories.counts(torch.float64).T + prior.log_prob(omega).unsqueeze(-1)


def exact_moments(psi, rho, histories):
    """Mean and covariance by sums over a grid, which is exact to rounding for what decays in it."""
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * psi.shape[-1]).view(-1, psi.shape[-1])
    weight = log_posterior(points, psi, rho, histories).softmax(0).T
    mean = weight @ points
    second = torch.einsum("ns,sk,sl->nkl", weight, points, points)
    return mean, second - mean.unsqueeze(-1) * mean.unsqueeze(-2)


@pytest.mark.parametrize("embedding_dim", [1, 2])
def test_moments_are_those_of_the_grid(embedding_dim):
    psi, rho, histories = story(embedding_dim=embedding_dim)
    mean, covariance = exact_moments(psi, rho, histories)
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    q = newton_posterior(histories, psi, rho)
    assert ((q.mean - mean).abs() < 0.12 * scale).all()
    assert ((q.stddev / scale - 1).abs() < 0.12).all()
    if embedding_dim == 2:
        correlation = [c[:, 0, 1] / (c[:, 0, 0] * c[:, 1, 1]).sqrt() for c in (covariance, q.covariance_matrix)]
        assert torch.allclose(*correlation, atol=0.06)
        assert correlation[0].abs().max() > 0.2
    em = expectation_maximization(histories, psi, rho)
    assert (em.stddev[4:] < 0.8 * scale[4:]).all()  # what is to be mended
    assert ((em.mean - mean).abs() / scale).max() > 0.3


def test_the_mean_leans_by_the_next_order():
    """At the mode the gradient is zero; the mean's distance from it is half of the third derivatives' contraction."""
    psi, rho, histories = story()
    q = newton_posterior(histories, psi, rho, tolerance=1e-9)
    mode = newton_by_autograd(psi, rho, histories)
    for n in range(1, 4):

        def value(omega, n=n):
            return log_posterior(omega, psi, rho, histories)[n]

        precision = -torch.autograd.functional.hessian(value, mode[n])
        covariance = precision.inverse()
        assert torch.allclose(q.covariance_matrix[n], covariance, atol=1e-6)

        def trace(omega, covariance=covariance, value=value):
            hessian = torch.autograd.functional.hessian(value, omega, create_graph=True)
            return (hessian * covariance).sum()

        third = torch.autograd.functional.jacobian(trace, mode[n])
        assert torch.allclose(q.mean[n], mode[n] + 0.5 * covariance @ third, atol=3e-5)
        assert (0.5 * covariance @ third).norm() > 3e-3


def newton_by_autograd(psi, rho, histories):
    omega = torch.zeros(len(histories), psi.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([omega], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = -log_posterior(omega, psi, rho, histories).diagonal().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return omega.detach()


def test_arrives_where_a_whole_step_would_not():
    """An item that nobody views, a thousand times: Newton's first steps overshoot."""
    psi = torch.cat([torch.linspace(-1, 1, 30), torch.tensor([9.0])]).double().unsqueeze(-1)
    rho = torch.cat([torch.zeros(30), torch.tensor([-12.0])]).double()
    histories = Histories.from_sequences([[30] * 1000, [0] * 1000, [30, 0]], num_items=31)
    q = newton_posterior(histories, psi, rho)
    omega = torch.linspace(-30, 30, 60_001, dtype=torch.float64).unsqueeze(-1)
    best = omega[log_posterior(omega, psi, rho, histories).argmax(0)]
    assert ((q.mean - best).abs() < 1.0 * q.stddev + 1e-3).all()
    assert q.stddev.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sessions_do_not_depend_on_each_other(items, histories, dtype, monkeypatch):
    items = [t.to(dtype) for t in items]
    together = newton_posterior(histories, *items)
    monkeypatch.setattr("blob_pyro.infer.newton._MAX_ELEMENTS", 1)  # one at a time
    alone = newton_posterior(histories, *items)
    assert together.mean.dtype == dtype
    assert torch.allclose(together.mean, alone.mean, rtol=1e-5)
    assert torch.allclose(together.covariance_matrix, alone.covariance_matrix, rtol=1e-5)
    assert newton_posterior(histories[:0], *items).batch_shape == (0,)


def test_no_views_no_news(items, histories):
    q = newton_posterior(histories, *items)
    assert torch.equal(q.mean[1], torch.zeros(K).double())
    assert torch.allclose(q.covariance_matrix[1], torch.eye(K).double(), atol=1e-12)


def test_no_steps_at_all_start_from_the_prior(items, histories):
    """Then it is one Newton step from zero, less the lean."""
    q = newton_posterior(histories, *items, num_steps=0)
    psi, rho = items
    probs = rho.softmax(-1)
    centered = psi - probs @ psi
    curvature = torch.einsum("p,pk,pl->kl", probs, centered, centered)
    precision = torch.eye(K).double() + histories.lengths[:, None, None] * curvature
    assert torch.allclose(q.covariance_matrix, precision.inverse(), atol=1e-10)
    assert math.isclose(float(q.mean[1].norm()), 0.0)
