"""ClickLogits against draws of the parameters pushed through the paper's formula."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

from blob_pyro.distributions import ArrowheadNormal, MatrixNormal, MultivariatePart
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.ops.tensors import map_tensors
from blob_pyro.posteriors import best_items
from blob_pyro.posteriors.best_items import best_each
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits

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


def by_hand(draws, psi, factor, interest):
    """S x N x P logits, from draws of every site."""
    beta = softplus(draws[W_A])[:, None, None] * psi + softplus(draws[W_B])[:, None, None] * (
        psi @ draws[ZETA] @ factor.mT
    )
    return interest @ beta.mT + (draws[KAPPA] + draws[W_C][:, None]).unsqueeze(1)


def correlated(kind):
    """All sites parts of one vector, strongly correlated, in the order of a guide: kappa last."""
    torch.manual_seed(8)
    size, num_shared = 3 + K * K + P, 3 + K * K
    factor, loc = 0.5 * torch.randn(size, size).double(), torch.randn(size).double()
    own = torch.rand(size).double() + 0.05
    if kind == "full":
        tril = (0.4 * factor).tril()
        tril.diagonal().abs_().add_(0.15)
        distribution = dist.MultivariateNormal(loc, scale_tril=tril)
    elif kind == "low rank":
        distribution = dist.LowRankMultivariateNormal(loc, factor[:, :2], own)
    else:
        tril = factor[:num_shared, :num_shared].tril()
        tril.diagonal().abs_().add_(0.1)
        distribution = ArrowheadNormal(loc, tril, factor[num_shared:, :num_shared], own[num_shared:])
    draw, parts, start = distribution.mean, {}, 0
    for name, shape in ((W_A, ()), (W_B, ()), (W_C, ()), (ZETA, (K, K)), (KAPPA, (P,))):
        parts[name] = MultivariatePart(draw, distribution, start, torch.Size(shape))
        start += math.prod(shape)
    return distribution, parts


def draw_jointly(distribution, parts):
    draws = distribution.sample((S,))
    return {n: MultivariatePart(draws, distribution, p.start, p.part_shape).v for n, p in parts.items()}


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


@pytest.mark.parametrize("at_once", [1 << 18, 70 * P, 13 * P], ids=["together", "in parts", "one context in parts"])
@pytest.mark.parametrize("name", ["independent", "matrix normal", "full", "low rank", "arrowhead"])
def test_best_items_of_some_contexts_more_often_than_others(problem, name, at_once, monkeypatch):
    psi, factor, interest = problem
    distribution, q = (
        correlated(name) if name in ("full", "low rank", "arrowhead") else (None, posterior(zetas()[name]))
    )
    draws = {n: d.sample((S,)) for n, d in q.items()} if distribution is None else draw_jointly(distribution, q)
    reference = by_hand(draws, psi, factor, interest).argmax(-1)
    monkeypatch.setattr(best_items, "_LOGITS_AT_ONCE", at_once)
    contexts = [0, 1, 2, 0, 1]
    counts = torch.tensor([30, 0, 4000, 3970, 4000])
    drawn = best_each(ClickLogits(q, psi, factor, interest)[contexts], counts).split(counts.tolist())
    assert [len(part) for part in drawn] == counts.tolist()
    for n, part in enumerate((torch.cat([drawn[0], drawn[3]]), drawn[4], drawn[2])):
        probability = torch.bincount(reference[:, n], minlength=P) / S
        found = torch.bincount(part, minlength=P) / len(part)
        error = (probability * (1 - probability) * (1 / len(part) + 1 / S)).sqrt()
        assert ((found - probability).abs() < 4.5 * error + 1e-3).all()
        again, chance = (part[1:] == part[:-1]).double().mean(), float(probability.square().sum())
        assert abs(again - chance) < 5 * (chance * (1 - chance) / len(part)) ** 0.5 + 5e-3  # no draw knows the last one


def test_best_items_among_those_allowed(problem):
    psi, factor, interest = problem
    logits = ClickLogits(posterior(zetas()["independent"]), psi, factor, interest)
    allowed = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]).bool()
    drawn = best_each(logits, torch.tensor([5000, 40, 5000]), allowed).split([5000, 40, 5000])
    assert (drawn[1] == 4).all()
    reference = logits.best((20_000,), allowed)
    for n in (0, 2):
        probability = torch.bincount(reference[:, n], minlength=P) / 20_000
        assert (probability[~allowed[n]] == 0).all()
        assert torch.allclose(torch.bincount(drawn[n], minlength=P) / 5000, probability, atol=0.04)


@pytest.mark.parametrize("counts", [[0, 0, 0], []], ids=str)
def test_best_items_of_nothing(problem, counts):
    psi, factor, interest = problem
    logits = ClickLogits(posterior(zetas()["independent"]), psi, factor, interest[: len(counts)])
    assert best_each(logits, torch.tensor(counts, dtype=torch.int64)).shape == (0,)


def test_draws_answer_the_same_questions(problem):
    """`DrawnClickLogits` against the closed form, from draws of the parameters."""
    psi, factor, interest = problem
    q = posterior(zetas()["matrix normal"])
    exact = ClickLogits(q, psi, factor, interest)
    draws = {name: site.sample((20_000,)) for name, site in q.items()}
    beta = softplus(draws[W_A])[:, None, None] * psi + softplus(draws[W_B])[:, None, None] * (
        psi @ draws[ZETA] @ factor.mT
    )
    kappa = (draws[KAPPA] + draws[W_C][:, None]).unsqueeze(-1)
    features = torch.cat([interest, torch.ones(3, 1).double()], -1)
    d = DrawnClickLogits(torch.cat([beta, kappa], -1), features)
    assert (d.batch_shape, d.event_shape) == ((3,), (P,))
    scale = exact.variance.sqrt() / 20_000**0.5
    assert ((d.mean - exact.mean).abs() < 4.5 * scale).all()
    assert torch.allclose(d.variance, exact.variance, rtol=0.1)
    assert torch.allclose(d.icdf(0.2), exact.icdf(0.2), atol=0.1)
    assert torch.allclose(d.cdf(exact.mean), exact.cdf(exact.mean), atol=0.02)
    assert torch.allclose(d.click_probability(), exact.click_probability(), atol=0.01)
    own = d.sample((5000,))
    assert ((own.mean(0) - d.mean).abs() < 4.5 * d.variance.sqrt() / 5000**0.5).all()
    assert torch.allclose(d[1:].mean, d.mean[1:])
    assert torch.allclose(d[:1].expand((2,)).variance, d.variance[:1].expand(2, -1))
    for distribution in (d, exact):
        with pytest.raises(ValueError, match="probability: must lie between 0 and 1, got 1"):
            distribution.icdf(1.0)


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
