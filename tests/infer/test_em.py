"""EM never descends, arrives where a direct optimiser does, and its online version follows it."""

import pyro.distributions as dist
import torch
from torch.distributions import kl_divergence

from blob_pyro.infer import EMState, ExpectationMaximization, expectation_maximization, online_expectation_maximization
from blob_pyro.infer.bounds.log_normalizers import bouchard, bouchard_offset
from tests.infer.em_problems import K, P


def bound(loc, factor, items, histories):
    """The ELBO under Bouchard's bound with optimal a and xi, from the likelihood's definition."""
    psi, rho = items
    q = dist.MultivariateNormal(loc, scale_tril=factor)
    mean, variance = loc @ psi.T + rho, torch.einsum("pk,nkl,pl->np", psi, factor @ factor.mT, psi)
    counts = histories.counts(torch.float64)
    normalizer = bouchard(mean, variance, bouchard_offset(mean, variance))
    prior = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
    return (counts * mean).sum(-1) - counts.sum(-1) * normalizer - kl_divergence(q, prior)


def test_no_cycle_lowers_the_bound(items, histories):
    em = ExpectationMaximization(histories, *items)
    state = em.start()
    values = [em.bound(state)]
    for _ in range(60):
        state = em.cycle(state)
        values.append(em.bound(state))
    steps = torch.stack(values).diff(dim=0)
    assert (steps > -1e-9).all()
    some = histories.lengths > 0
    assert (steps[0, some] > 1e-4).all()
    assert torch.allclose(values[0][~some], torch.zeros(1).double(), atol=1e-9)


def test_no_jump_lowers_the_bound_and_some_pay(items, histories):
    em = ExpectationMaximization(histories, *items)
    state, gains = em.start(), []
    for _ in range(10):
        second = em.cycle(state)
        third = em.cycle(second)
        state = em.extrapolate(state, second, third)
        gains.append(em.bound(state) - em.bound(third))
    gains = torch.stack(gains)
    assert (gains > -1e-9).all()
    assert (gains.amax(0)[histories.lengths > 0] > 1e-4).all()


def test_its_bound_is_the_likelihood_s(items, histories):
    em = ExpectationMaximization(histories, *items)
    state = em.cycle(em.cycle(em.start()))
    expected = bound(state.posterior.loc, state.posterior.scale_tril, items, histories)
    assert torch.allclose(em.bound(state), expected, atol=1e-6)


def test_arrives_where_a_direct_optimiser_does(items, histories):
    """L-BFGS over mean and Cholesky factor of all sessions, on the bound with a and xi optimised out."""
    loc = torch.zeros(len(histories), K, dtype=torch.float64, requires_grad=True)
    raw = torch.zeros(len(histories), K, K, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([loc, raw], max_iter=800, line_search_fn="strong_wolfe", tolerance_change=1e-13)

    def factor():
        return raw.tril(-1) + raw.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def closure():
        optimizer.zero_grad()
        loss = -bound(loc, factor(), items, histories).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    q = expectation_maximization(histories, *items, num_cycles=3000, tolerance=1e-9)
    reached = bound(q.mean, q.scale_tril, items, histories)
    best = bound(loc, factor(), items, histories).detach()
    assert torch.allclose(reached, best, atol=1e-6)
    assert torch.allclose(q.mean, loc.detach(), atol=2e-4)
    assert torch.allclose(q.covariance_matrix, (factor() @ factor().mT).detach(), atol=2e-4)


def test_a_hundred_cycles_are_enough(items, typical):
    hundred = expectation_maximization(typical, *items, num_cycles=100, tolerance=0.0)
    all_of_them = expectation_maximization(typical, *items, num_cycles=3000, tolerance=1e-9)
    assert ((hundred.mean - all_of_them.mean).abs() < 1e-3 * all_of_them.stddev).all()


def test_sessions_do_not_depend_on_each_other(items, histories, monkeypatch):
    together = expectation_maximization(histories, *items, num_cycles=50, tolerance=0.0)
    monkeypatch.setattr("blob_pyro.infer.em.MAX_ELEMENTS", P)  # one at a time
    alone = expectation_maximization(histories, *items, num_cycles=50, tolerance=0.0)
    assert torch.allclose(together.mean, alone.mean, rtol=1e-9)
    assert torch.allclose(together.covariance_matrix, alone.covariance_matrix, rtol=1e-9)
    assert expectation_maximization(histories[:0], *items).batch_shape == (0,)


def test_no_views_no_news(items, histories):
    for method in (expectation_maximization, online_expectation_maximization):
        q = method(histories, *items)
        assert torch.equal(q.mean[1], torch.zeros(K).double())
        assert torch.allclose(q.covariance_matrix[1], torch.eye(K).double(), atol=1e-12)


def test_a_jump_that_lowers_the_bound_is_not_taken(items, histories):
    """Three states in a line, which look ahead by a thousand of their steps: far beyond the maximum."""
    em = ExpectationMaximization(histories, *items)
    state = em.start()
    for _ in range(20):
        state = em.cycle(state)

    def moved(step):
        loc = state.posterior.loc + step * 0.01
        posterior = dist.MultivariateNormal(loc, scale_tril=state.posterior.scale_tril, validate_args=False)
        mean, variance = em._logits(posterior)
        return EMState(posterior, state.offset, em._xi(mean, variance, state.offset))

    first, second, third = moved(-2.0), moved(-1.0), moved(0.0)
    after = em.extrapolate(first, second, third)
    assert torch.equal(after.posterior.loc, third.posterior.loc)
    assert torch.equal(after.offset, third.offset)
    assert torch.equal(after.xi, third.xi)
