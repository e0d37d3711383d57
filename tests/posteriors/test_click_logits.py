"""ClickLogits against draws of the parameters pushed through the paper's formula."""

import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

from blob_pyro.distributions import MultivariatePart
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.ops.tensors import map_tensors
from blob_pyro.posteriors import click_logits as module
from blob_pyro.posteriors.click_logits import ClickLogits
from tests.posteriors.posteriors import K, P, S, by_hand, correlated, draw_jointly, posterior, zetas


def test_delta_sites_leave_no_doubt(problem):
    psi, factor, interest = problem
    q = {n: dist.Delta(d.mean, event_dim=len(d.event_shape)) for n, d in posterior(zetas()["independent"]).items()}
    d = ClickLogits(q, psi, factor, interest)
    beta = softplus(q[W_A].v) * psi + softplus(q[W_B].v) * psi @ q[ZETA].v @ factor.mT
    expected = interest @ beta.mT + q[KAPPA].v + q[W_C].v
    assert torch.allclose(d.mean, expected)
    assert torch.allclose(d.sample((3,)), expected.expand(3, -1, -1))
    assert torch.allclose(d.click_probability(), expected.sigmoid(), atol=1e-9)
    assert (d.variance.abs() < 1e-12).all()


@pytest.mark.parametrize("name", ["independent", "matrix normal", "full", "low rank", "arrowhead"])
def test_moments_and_draws(problem, name):
    psi, factor, interest = problem
    distribution, q = (
        correlated(name) if name in ("full", "low rank", "arrowhead") else (None, posterior(zetas()[name]))
    )
    d = ClickLogits(q, psi, factor, interest)
    assert (d.batch_shape, d.event_shape) == ((3,), (P,))
    draws = (
        {name: site.sample((S,)) for name, site in q.items()} if distribution is None else draw_jointly(distribution, q)
    )
    reference = by_hand(draws, psi, factor, interest)
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
    for probability in (0.03, 0.5, 0.9):
        below = (reference < d.icdf(probability)).double().mean(0)
        assert ((below - probability).abs() < 4.5 * (probability * (1 - probability) / S) ** 0.5 + 2e-3).all()
    average = reference.sigmoid()
    error = average.std(0) / S**0.5
    assert ((d.click_probability() - average.mean(0)).abs() < 4.5 * error + 2e-4).all()


def test_given_what_is_shared_items_are_independent(problem):
    psi, factor, interest = problem
    q = posterior(zetas()["matrix normal"])
    d = ClickLogits(q, psi, factor, interest)
    shared = torch.zeros(1, d.num_factors).double()
    deviation = interest @ factor @ q[ZETA].mean.mT @ psi.mT
    expected = softplus(q[W_A].mean) * interest @ psi.mT + softplus(q[W_B].mean) * deviation + q[KAPPA].mean
    assert torch.allclose(d.given_shared(shared), expected)


@pytest.mark.parametrize("probability", [1e-5, 0.9999])
def test_quantiles_of_rare_levels_are_those_of_the_cdf(problem, probability):
    """Beyond three standard deviations, and of values that are broadcast against contexts and items."""
    psi, factor, interest = problem
    d = ClickLogits(posterior(zetas()["independent"]), psi, factor, interest)
    quantile = d.icdf(probability)
    assert ((quantile - d.mean).abs() > 3 * d.variance.sqrt()).any()
    torch.testing.assert_close(d.cdf(quantile), torch.full((3, P), probability).double(), rtol=1e-3, atol=0)
    values = torch.stack([quantile, d.mean, d.mean + 1])
    found = d.cdf(values)
    assert found.shape == values.shape
    torch.testing.assert_close(found[2], d.cdf(d.mean + 1))
    assert d.cdf(torch.tensor(0.3).double()).shape == (3, P)


def test_picking_contexts(problem):
    psi, factor, interest = problem
    d = ClickLogits(posterior(zetas()["independent"]), psi, factor, interest)
    assert torch.allclose(d[1:].mean, d.mean[1:])
    assert torch.allclose(d[:1].expand((4,)).variance, d.variance[:1].expand(4, -1))


@pytest.mark.parametrize("kind", ["full", "low rank", "arrowhead"])
def test_double_precision_after_answers_in_single(problem, kind):
    """What has been computed in single precision is not kept."""
    single = [t.float() for t in problem]
    vector, parts = correlated(kind)
    exact = ClickLogits(parts, *problem)
    vector = map_tensors(vector, torch.Tensor.float)
    rounded = {n: MultivariatePart(vector.mean, vector, p.start, p.part_shape) for n, p in parts.items()}
    d = ClickLogits(rounded, *single)
    assert d.mean.dtype == d.variance.dtype == torch.float32
    torch.testing.assert_close(d.double().mean, exact.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(d.double().variance, exact.variance, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("site", "value", "message"),
    [
        (W_A, dist.Laplace(0.0, 1.0), "site 'w_a': click_logits needs a normal"),
        (KAPPA, dist.Laplace(torch.zeros(P), 1.0).to_event(1), "site 'kappa'"),
        (ZETA, dist.Laplace(torch.zeros(K, K), 1.0).to_event(2), "site 'zeta': no Gaussian distribution"),
    ],
)
def test_other_families_are_refused_by_name(problem, site, value, message):
    q = {**posterior(zetas()["independent"]), site: value}
    with pytest.raises(ValueError, match=message):
        ClickLogits(q, *problem)


@pytest.mark.parametrize("name", ["matrix normal", "full", "low rank", "arrowhead"])
def test_some_items_are_those_of_all(problem, name):
    q = correlated(name)[1] if name in ("full", "low rank", "arrowhead") else posterior(zetas()[name])
    d, index = ClickLogits(q, *problem), torch.tensor([3, 0])
    assert d.mean.shape == (3, P)  # what is kept of all items is not taken for some
    assert d.variance.shape == (3, P)
    some = d.of_items(index)
    assert some.event_shape == (2,)
    for answer in (lambda x: x.mean, lambda x: x.variance, lambda x: x.icdf(0.1), lambda x: x.click_probability()):
        torch.testing.assert_close(answer(some), answer(d)[:, index])
    assert d.mean.shape == (3, P)


def test_of_very_many_items_means_are_those_of_each(monkeypatch):
    """A catalogue from which on products are taken item by item."""
    monkeypatch.setattr(module, "_LARGE", 5)
    assert P >= 5
    psi, whitening, interest = torch.randn(P, K), torch.randn(K, K), torch.randn(3, K)
    for name, zeta in zetas().items():
        exact = ClickLogits(posterior(zeta), psi.double(), whitening.double(), interest.double())
        shared = torch.randn(3, exact.num_factors, dtype=torch.float64)
        along, across, of_zeta, _ = exact.split(shared)
        deviation = exact.deviation_loc + (exact.deviation_factor @ of_zeta.unsqueeze(-1)).squeeze(-1)
        by_hand = (along[:, None] * exact.interest + across[:, None] * deviation) @ psi.double().mT + exact.own_loc
        torch.testing.assert_close(exact.given_shared(shared), by_hand, rtol=1e-12, atol=1e-12, msg=name)
        few = exact.of_items(torch.tensor([3, 1]))
        assert bool((few.rounding(shared) <= exact.rounding(shared)).all())
        assert bool((few.rounding(shared) != exact.rounding(shared)).all())
