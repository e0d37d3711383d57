"""What items add by themselves, against the covariance of all numbers in full and against draws."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

from blob_pyro import BLOB, BanditPriors
from blob_pyro.distributions import BlockArrowheadNormal, MultivariatePart
from blob_pyro.models import ItemDeviations
from blob_pyro.models.sites import BETA_DEVIATION, KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.policies import ThompsonSampling
from blob_pyro.policies.thompson_actions import MixtureThompsonActions, ThompsonActions
from blob_pyro.posteriors.best_items import best_each
from blob_pyro.posteriors.click_logits import ClickLogits, has_closed_form
from blob_pyro.posteriors.drawn_click_logits import DrawnClickLogits, linear_features
from blob_pyro.posteriors.own_effects import has_own_effects, own_effects
from blob_pyro.propensity import ArgmaxNormal
from tests.posteriors.posteriors import K, P, S

KINDS = ["block arrowhead", "low rank", "independent"]


def with_deviations(kind, own=1.0):
    """A posterior without zeta: ``w_a`` and ``w_c`` are shared, and items have betas; every scale different."""
    torch.manual_seed(3)
    fixed = {W_B: dist.Delta(torch.tensor(-6.0).double()), ZETA: dist.Delta(torch.zeros(K, K).double(), event_dim=2)}
    size = 2 + P * (K + 1)
    loc, factor = torch.randn(size).double(), 0.4 * torch.randn(size, 2).double()
    scale = own * (0.1 + torch.rand(size).double())
    if kind == "independent":
        numbers = dict(zip((W_A, W_C), zip(loc[:2], scale[:2])))
        sites = {name: dist.Normal(*both) for name, both in numbers.items()}
        beta = (x[2 : 2 + P * K].view(P, K) for x in (loc, scale))
        kappa = dist.Normal(loc[-P:], scale[-P:]).to_event(1)
        return None, {**fixed, **sites, BETA_DEVIATION: dist.Normal(*beta).to_event(2), KAPPA: kappa}
    if kind == "low rank":
        vector = dist.LowRankMultivariateNormal(loc, factor, scale.square())
    else:
        tril = own * 0.4 * torch.randn(P, K + 1, K + 1).double().tril()
        tril.diagonal(dim1=-2, dim2=-1).abs_().add_(0.1)
        top = torch.tensor([[0.7, 0.0], [-0.4, 0.5]]).double()
        vector = BlockArrowheadNormal(loc, top, 0.5 * torch.randn(P, K + 1, 2).double(), tril, (K, 1))
    parts, start = {}, 0
    for name, shape in ((W_A, ()), (W_C, ()), (BETA_DEVIATION, (P, K)), (KAPPA, (P,))):
        parts[name] = MultivariatePart(vector.mean, vector, start, torch.Size(shape))
        start += math.prod(shape)
    return vector, {**fixed, **parts}


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_all_numbers_together(problem, kind):
    """``kappa_p + delta_p omega`` is linear in the vector, so its covariances follow from the vector's in full."""
    interest = problem[2]
    vector, q = with_deviations(kind)
    effects = own_effects(q, 0 if vector is None else 2)
    if vector is None:
        loc = torch.cat([q[BETA_DEVIATION].mean.flatten(), q[KAPPA].mean])
        covariance = torch.cat([q[BETA_DEVIATION].variance.flatten(), q[KAPPA].variance]).diag()
    else:
        loc, covariance = vector.mean[2:], vector.covariance_matrix[2:, 2:]
    of_kappa = torch.eye(P).double()
    for n, omega in enumerate(interest):
        linear = torch.cat([torch.kron(of_kappa, omega.unsqueeze(0)), of_kappa], -1)  # P x P (K + 1)
        expected = linear @ covariance @ linear.mT
        shared = effects.loadings(interest)[n]
        found = shared @ shared.mT + effects.scale(interest)[n].square().diag()
        assert torch.allclose(effects.mean(interest)[n], linear @ loc)
        assert torch.allclose(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_click_logits_and_best_items_against_draws(problem, kind):
    psi, factor, interest = problem
    vector, q = with_deviations(kind)
    assert has_closed_form(q)
    logits = ClickLogits(q, psi, factor, interest)
    if vector is None:
        draws = {name: site.sample((S,)) for name, site in q.items()}
    else:
        drawn = vector.sample((S,))
        parts = {n: p for n, p in q.items() if isinstance(p, MultivariatePart)}
        draws = {n: MultivariatePart(drawn, vector, p.start, p.part_shape).v for n, p in parts.items()}
    beta = softplus(draws[W_A])[:, None, None] * psi + draws[BETA_DEVIATION]
    reference = interest @ beta.mT + (draws[KAPPA] + draws[W_C][:, None]).unsqueeze(1)
    own = logits.sample((S,))
    for found in (reference, own):
        assert ((found.mean(0) - logits.mean).abs() < 4.5 * logits.variance.sqrt() / S**0.5).all()
        fourth = ((found - found.mean(0)) ** 4).mean(0)
        assert ((found.var(0) - logits.variance).abs() < 4.5 * (fourth - logits.variance**2).sqrt() / S**0.5).all()
    for n in range(3):
        expected = reference[:, n].mT.cov()
        assert torch.allclose(own[:, n].mT.cov(), expected, atol=0.03 * expected.diagonal().max())
    average = reference.sigmoid()
    assert ((logits.click_probability() - average.mean(0)).abs() < 4.5 * average.std(0) / S**0.5 + 2e-4).all()
    frequency = torch.nn.functional.one_hot(reference.argmax(-1), P).double().mean(0)
    again = best_each(logits, torch.full((3,), S // 2)).view(3, -1)
    for probs, draws_used in (
        (torch.nn.functional.one_hot(again, P).double().mean(1), S / 3),
        (ThompsonActions(logits).probs, S),
    ):
        error = (frequency * (1 - frequency) / draws_used).sqrt()
        assert ((probs - frequency).abs() < 5 * error + 2e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_propensities_are_exact_given_what_is_shared(problem, kind):
    logits = ClickLogits(with_deviations(kind)[1], *problem)
    numbers = {"block arrowhead": 2, "low rank": 1 + 2, "independent": 1}  # w_a by itself, and the vector's two
    assert logits.num_factors == numbers[kind]
    actions = MixtureThompsonActions(logits, 8)
    expected = torch.zeros(3, P).double()
    for point in actions.points:
        expected += ArgmaxNormal(logits.given_shared(point), logits.own_scale).probs / 8
    assert torch.allclose(actions.probs, expected, atol=1e-12)
    counts, played = torch.tensor([2, 0, 3]), torch.tensor([0, 4, 2, 2, 1])
    rows = torch.tensor([0, 0, 2, 2, 2])
    assert torch.allclose(actions.log_prob_each(counts, played).exp(), expected[rows, played], rtol=1e-9)
    assert torch.allclose(logits[torch.tensor([2, 0])].own_scale, logits.own_scale[[2, 0]])
    some = logits.of_items(torch.tensor([3, 1]))
    assert torch.allclose(some.mean, logits.mean[:, [3, 1]])
    assert torch.allclose(some.variance, logits.variance[:, [3, 1]])


def test_what_cannot_be_read_is_said(problem):
    q = with_deviations("independent")[1]
    vector, others = with_deviations("block arrowhead")
    assert not has_own_effects({**q, BETA_DEVIATION: others[BETA_DEVIATION]})  # kappa is no part of that vector
    full = dist.MultivariateNormal(vector.mean, vector.covariance_matrix)
    part = MultivariatePart(full.mean, full, 2, torch.Size((P, K)))
    assert not has_closed_form({**q, BETA_DEVIATION: part})


@pytest.mark.parametrize("name", [None, "own"])
def test_a_fitted_model_agrees_with_its_own_draws(log, blo, name):
    """Whatever the term is called: the closed form is that of the parameters that the model samples."""
    term = ItemDeviations(0.3)
    priors = replace(BanditPriors.recommended(), terms=(term,) if name is None else {name: term})
    blob = BLOB(blo, "laplace", priors)
    blob.fit(log, progress=False, device="cpu")
    histories = [[1, 2, 2], [], [5]]
    logits = blob.click_logits(histories)
    assert isinstance(logits, ClickLogits)
    draws = blob.sample(4000)
    coefficients = torch.vmap(blob.model.coefficients, chunk_size=500)(draws)
    drawn = linear_features(blob.blo.embed(histories), None) @ coefficients.mT
    assert ((drawn.mean(0) - logits.mean).abs() < 5 * logits.variance.sqrt() / 4000**0.5).all()
    assert torch.allclose(drawn.var(0), logits.variance, rtol=0.15)
    assert float((logits.own_scale.max(0).values / logits.own_scale.min(0).values).max()) > 1 + 1e-4
    assert isinstance(ThompsonSampling(blob).action_distribution(histories), ThompsonActions)


def test_two_terms_of_own_betas_are_answered_by_draws(log, blo):
    blob = BLOB(blo, "normal", BanditPriors(terms={"a": ItemDeviations(0.3), "b": ItemDeviations(0.1)}))
    blob.fit(log, num_epochs=2, progress=False, device="cpu")
    assert isinstance(blob.click_logits([[1]]), DrawnClickLogits)
