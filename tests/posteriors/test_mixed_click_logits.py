"""Click logits over the nodes of ``w_b`` against draws of the parameters, put into the model's own logit."""

from copy import deepcopy
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import softplus

from blob_pyro.guides import make_guide
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors
from blob_pyro.policies.thompson_actions import ConditionalThompsonActions, MixtureThompsonActions, ThompsonActions
from blob_pyro.posteriors.guide_posterior import GuidePosterior
from blob_pyro.posteriors.mixed_click_logits import MixedClickLogits, at_nodes
from blob_pyro.propensity import ArgmaxNormal

P, K, DRAWS = 3, 2, 40_000


@pytest.fixture(scope="module")
def fitted():
    """Few events of three items, so that ``w_b`` is in doubt; omega of three contexts."""
    torch.manual_seed(4)
    psi = torch.randn(P, K).double() * torch.tensor([1.0, 1.5])
    priors = BanditPriors(
        w_a=dist.Normal(-1.0, 0.7), w_b=dist.Normal(-0.5, 1.0), w_c=dist.Normal(-1.0, 1.0), kappa_scale=0.5
    )
    model = BanditModel(psi, priors)
    batch = BanditBatch(torch.randn(30, K).double(), torch.arange(150) % 30, torch.arange(150) % P, None, 150)
    batch = replace(
        batch, reward=torch.bernoulli(model.logit({k: v[0] for k, v in model.prior_draws(1).items()}, batch).sigmoid())
    )
    guide = make_guide("laplace", model)
    fit_laplace(guide, model, batch, progress=False)
    known = GuidePosterior(model, guide)
    interest = torch.tensor([[0.5, 1.0], [-1.0, 2.0], [0.0, 0.3]]).double()
    torch.manual_seed(5)
    return known, interest, known.sample(DRAWS), batch


def drawn(fitted):
    known, interest, draws, _ = fitted
    features = torch.cat([interest, torch.ones(3, 1).double()], -1)
    return features @ known.coefficients(draws).mT  # draws x 3 x P


def test_moments_are_those_of_draws(fitted):
    known, interest, _, _ = fitted
    logits, values = known.click_logits(interest), drawn(fitted)
    assert isinstance(logits, MixedClickLogits)
    assert ((values.mean(0) - logits.mean).abs() < 5 * (logits.variance / DRAWS).sqrt()).all()
    assert torch.allclose(values.var(0), logits.variance, rtol=0.05)
    assert torch.allclose(logits.mean, logits._mean())
    assert torch.allclose(logits.click_probability(), values.sigmoid().mean(0), atol=5e-3)
    scale = logits.variance.sqrt()
    for level in (0.05, 0.5, 0.95):
        assert ((logits.icdf(level) - values.quantile(level, 0)).abs() < 0.04 * scale).all()
    some = logits.of_items(torch.tensor([2, 0]))[torch.tensor([1])]
    assert torch.allclose(some.mean, logits.mean[1:2, [2, 0]])
    assert torch.allclose(some.variance, logits.variance[1:2, [2, 0]])


def test_draws_of_logits_are_of_it(fitted):
    logits = fitted[0].click_logits(fitted[1])
    torch.manual_seed(6)
    values = logits.sample((20_000,))
    assert ((values.mean(0) - logits.mean).abs() < 5 * (logits.variance / 20_000).sqrt()).all()
    assert torch.allclose(values.var(0), logits.variance, rtol=0.06)


def test_draws_of_several_dimensions_are_each_of_its_context(fitted):
    logits = fitted[0].click_logits(fitted[1])
    torch.manual_seed(9)
    values = logits.sample((4, 5_000))
    assert values.shape == (4, 5_000, 3, P)
    assert ((values.mean((0, 1)) - logits.mean).abs() < 5 * (logits.variance / 20_000).sqrt()).all()
    one = logits.sample()
    assert one.shape == (3, P)
    assert ((one - logits.mean).abs() < 6 * logits.variance.sqrt()).all()


def test_what_items_share_says_which_node(fitted):
    """One draw for all contexts and one for each are the same function of the numbers."""
    logits = fitted[0].click_logits(fitted[1])
    torch.manual_seed(7)
    numbers = torch.randn(5, 1, logits.num_factors).double()
    together, each = logits.given_shared(numbers), logits.given_shared(numbers.expand(5, 3, -1))
    assert torch.allclose(together, each)
    assert torch.allclose(logits.given_shared(numbers[0]), together[0])
    node = int(logits.node(numbers[2, 0, 0]))
    assert torch.allclose(logits.parts[node].given_shared(numbers[2, :, 1:]), together[2])
    chances = torch.bincount(logits.node(torch.randn(100_000)), minlength=len(logits.parts)) / 100_000
    assert ((chances - logits.mixture_weights).abs() < 0.01).all()


def test_propensities_are_frequencies_of_the_best(fitted):
    """Of Thompson sampling, of its finite mixture, and given a draw: against draws of the parameters."""
    logits, values = fitted[0].click_logits(fitted[1]), drawn(fitted)
    best = torch.nn.functional.one_hot(values.argmax(-1), P).double().mean(0)
    error = (best * (1 - best) / DRAWS).sqrt()
    actions = ThompsonActions(logits, num_points=64)
    assert ((actions.probs - best).abs() < 4.5 * error + 4 * actions.error_estimate + 1e-3).all()
    torch.manual_seed(8)
    counts = torch.tensor([20_000, 0, 10_000])
    played = actions.sample_each(counts)
    for context, rows in ((0, slice(20_000)), (2, slice(20_000, 30_000))):
        found = torch.bincount(played[rows], minlength=P) / len(played[rows])
        assert ((found - best[context]).abs() < 5 * (0.25 / len(played[rows])) ** 0.5).all()
    mixture = MixtureThompsonActions(logits, 16)
    expected = (
        sum(ArgmaxNormal(logits.given_shared(point[None]), logits.own_scale).probs for point in mixture.points) / 16
    )
    assert torch.allclose(mixture.probs, expected, atol=1e-9)
    assert torch.allclose(mixture.log_prob(torch.tensor([0, 1, 2])).exp(), mixture.probs.diagonal())
    shared = torch.randn(400, 3, logits.num_factors).double()
    given = torch.stack([ConditionalThompsonActions(logits, one).probs for one in shared])
    assert ((given.mean(0) - best).abs() < 4.5 * given.std(0) / 20 + 4.5 * error).all()


def test_against_the_exact_posterior(fitted):
    """w_b and a logit, by self-normalised importance sampling from the guide: every number is integrated over."""
    known, _, _, batch = fitted
    values, log_q = known.sample_with_density(DRAWS)
    with torch.no_grad():
        logits = torch.vmap(lambda one: known.model.logit(one, batch), chunk_size=2000)(values)
    log_p = (batch.reward * logits - softplus(logits)).sum(-1)
    log_p = log_p + sum(p.log_prob(values[name]) for name, p in known.model.site_priors().items())
    weights = (log_p - log_q).softmax(0)
    assert float(1 / weights.square().sum()) > 0.2 * DRAWS
    for name in ("w_a", "w_b", "w_c"):
        mean = weights @ values[name]
        spread = (weights @ (values[name] - mean).square()).sqrt()
        q = known.distributions()[name]
        assert abs(q.mean - mean) < 0.2 * spread, name
        assert float(q.variance.sqrt() / spread) == pytest.approx(1, abs=0.2), name
    interest = torch.tensor([[0.5, 1.0]]).double()
    logit = torch.cat([interest, torch.ones(1, 1).double()], -1) @ known.coefficients(values).mT
    mean = (weights.view(-1, 1, 1) * logit).sum(0)
    spread = (weights.view(-1, 1, 1) * (logit - mean).square()).sum(0).sqrt()
    found = known.click_logits(interest)
    assert ((found.mean - mean).abs() < 0.2 * spread).all()
    assert torch.allclose(found.variance.sqrt(), spread, rtol=0.2)


def test_other_posteriors_have_no_nodes(fitted):
    model = fitted[0].model
    assert at_nodes(GuidePosterior(model, make_guide("normal", model)).distributions()) is None
    nodes = at_nodes(fitted[0].distributions())
    assert len(nodes.posteriors) == len(nodes.weights) <= 9
    assert all(set(posterior) == set(model.site_priors()) for posterior in nodes.posteriors)


def test_a_number_stands_for_the_same_node_in_every_precision(fitted):
    """Beside the end of a node a number is rounded to the other side of it: the node is asked before."""
    known, interest, _, _ = fitted
    model, guide = deepcopy((known.model, known.guide))
    rounded = GuidePosterior(model.float(), guide.float()).click_logits(interest.float())
    exact = rounded.double()
    ends = torch.special.ndtri(exact.mixture_weights.cumsum(0)[:-1])
    beside = torch.cat([ends - 1e-9, ends + 1e-9])
    assert (rounded.node(beside.float()) != exact.node(beside)).any()
    for number in beside:
        numbers = torch.cat([number.expand(3, 1), torch.randn(3, exact.num_factors - 1).double()], -1)
        off = (rounded.given_shared(numbers) - exact.given_shared(numbers)).abs().amax(-1)
        assert (off <= rounded.rounding(numbers)).all()
    assert (rounded.rounding(numbers) < 1e-3).all()
