"""A prior over all sites together: the model's story, its guides, its divergences, on disk."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from blob_pyro import BanditPriors
from blob_pyro.distributions import ArrowheadNormal
from blob_pyro.guides import make_guide
from blob_pyro.infer import GuidedELBO, LocalReparameterization
from blob_pyro.infer.laplace.fit import fit_laplace
from blob_pyro.models import BanditBatch, BanditModel, ItemDeviations, VectorPrior
from blob_pyro.models.sites import CLICK, KAPPA, MULTIVARIATE, W_A, W_C, ZETA
from blob_pyro.serialization.codec import decode, encode
from blob_pyro.testing import check_guide

P, K, N = 5, 2, 300
SHAPES = {"w_a": (), "w_b": (), "w_c": (), "zeta": (K, K), "kappa": (P,)}
SHARED, D = 7, 12


def arrowhead():
    tril = 0.2 * torch.randn(SHARED, SHARED).double().tril(-1) + torch.linspace(0.3, 1.5, SHARED).double().diag()
    scale = torch.linspace(0.2, 0.8, P).double()
    return ArrowheadNormal(torch.randn(D).double(), tril, 0.3 * torch.randn(P, SHARED).double(), scale)


def distributions():
    distribution = arrowhead()
    return {
        "arrowhead": distribution,
        "full": dist.MultivariateNormal(distribution.loc, distribution.covariance_matrix),
        "low rank": dist.LowRankMultivariateNormal(
            distribution.loc, torch.randn(D, 2).double(), 0.1 + torch.rand(D).double()
        ),
    }


GUIDE = {"arrowhead": "laplace", "full": "full", "low rank": "low_rank"}


def make(distribution):
    psi = torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.4, 1.5])
    return BanditModel(psi, BanditPriors(vector=VectorPrior(distribution, SHAPES)))


@pytest.fixture
def batch():
    interest = 2 * torch.randn(N, K, dtype=torch.float64)
    return BanditBatch(interest, torch.arange(N), torch.arange(N) % P, (torch.rand(N) < 0.2).double(), N)


@pytest.mark.parametrize("name", GUIDE)
def test_the_story_draws_the_vector_and_deals_it_out(name, batch):
    distribution = distributions()[name]
    model = make(distribution)
    trace = poutine.trace(model).get_trace(batch)
    trace.compute_log_prob()
    draw = trace.nodes[MULTIVARIATE]["value"]
    values = {n: trace.nodes[n]["value"] for n in SHAPES}
    assert {n: tuple(v.shape) for n, v in values.items()} == SHAPES
    assert torch.equal(torch.cat([v.flatten() for v in values.values()]), draw)
    clicks = dist.Bernoulli(logits=model.logit(values, batch)).log_prob(batch.reward).sum()
    assert torch.allclose(trace.log_prob_sum(), distribution.log_prob(draw) + clicks)
    draws = model.prior_draws(100_000)
    flat = torch.cat([draws[n].reshape(100_000, -1) for n in SHAPES], -1)
    covariance, variance = distribution.covariance_matrix, distribution.covariance_matrix.diagonal()
    spread = (variance[:, None] * variance + covariance**2).sqrt() / 100_000**0.5
    assert ((flat.mT.cov() - covariance).abs() < 5.5 * spread).all()
    marginal = model.site_priors()[ZETA]
    assert torch.allclose(marginal.variance, variance[3:7].view(K, K))
    assert model.learned == {}


@pytest.mark.parametrize("name", GUIDE)
def test_guides_keep_the_contract(name, batch):
    check_guide(GUIDE[name], make(distributions()[name]), batch)


@pytest.mark.parametrize("name", GUIDE)
def test_a_guide_equal_to_the_prior_has_no_kl(name, batch):
    """Without events the loss of an exact guide is 0 = -log evidence, with zero variance; updates start there."""
    distribution = distributions()[name]
    model = make(distribution)
    guide = make_guide(GUIDE[name], model)
    if name == "arrowhead":
        guide.take(distribution)
    nothing_seen = poutine.block(model, hide=[CLICK])
    with torch.no_grad():
        elbo = GuidedELBO(LocalReparameterization)
        losses = torch.stack([elbo.differentiable_loss(nothing_seen, guide, batch) for _ in range(3)])
    assert losses.abs().max() < 1e-9


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "arrowhead" else [pytest.mark.slow]) for name in GUIDE]
)
def test_local_reparameterisation_leaves_the_expectation(name, batch):
    distribution = distributions()[name]
    model = make(distribution)
    guide = make_guide(GUIDE[name], model)
    if name == "arrowhead":  # at Laplace's mode the shared noise cancels to first order, with and without; not here
        guide.take(distribution)
    with torch.no_grad(), pyro.validation_enabled(False):
        local, plain = (
            torch.stack([elbo.differentiable_loss(model, guide, batch) for _ in range(400)])
            for elbo in (GuidedELBO(LocalReparameterization), GuidedELBO())
        )
    assert abs(local.mean() - plain.mean()) < 4 * ((local.var() + plain.var()) / 400).sqrt()
    assert local.var() < plain.var()
    assert name != "arrowhead" or local.var() < plain.var() / 5


@pytest.mark.parametrize("name", ["arrowhead", "full"])
def test_laplace_finds_mode_and_curvature(name, batch):
    """An arrowhead stays one; under any other prior every number counts as shared. ``w_b`` fixed: see test_fit."""
    distribution = distributions()[name]
    shapes = {n: shape for n, shape in SHAPES.items() if n != "w_b"}
    free = torch.arange(D) != 1
    if name == "arrowhead":
        shared = free[:SHARED]
        distribution = ArrowheadNormal(
            distribution.loc[free],
            distribution.shared_scale_tril[shared][:, shared],
            distribution.loading[:, shared],
            distribution.scale,
        )
    else:
        distribution = dist.MultivariateNormal(distribution.loc[free], distribution.covariance_matrix[free][:, free])
    psi = torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.4, 1.5])
    model = BanditModel(psi, BanditPriors(w_b=0.3, vector=VectorPrior(distribution, shapes)))
    guide = make_guide("laplace", model)
    assert guide.num_own == (P if name == "arrowhead" else 0)
    fit_laplace(guide, model, batch, progress=False)

    def log_joint(theta):
        pieces = theta.split([torch.Size(s).numel() for s in shapes.values()])
        values = {n: piece.view(shape) for (n, shape), piece in zip(shapes.items(), pieces)}
        return (
            distribution.log_prob(theta)
            + dist.Bernoulli(logits=model.logit(values, batch)).log_prob(batch.reward).sum()
        )

    curvature = -torch.autograd.functional.hessian(log_joint, guide.loc)
    (gradient,) = torch.autograd.grad(log_joint(point := guide.loc.clone().requires_grad_()), point)
    assert (gradient.abs() < 3e-3 * curvature.diagonal().sqrt()).all()
    assert torch.allclose(guide.multivariate().covariance_matrix, torch.linalg.inv(curvature), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("guide", ["normal", "matrix_normal", "delta", "nuts"])
def test_guides_without_the_vector_are_told(guide):
    with pytest.raises(
        ValueError, match=r"one Gaussian over \['w_a', .*use one that does, such as 'low_rank' or 'laplace'"
    ):
        make_guide(guide, make(arrowhead()))


@pytest.mark.parametrize("name", GUIDE)
def test_json(name):
    distribution = distributions()[name]
    priors = BanditPriors(vector=VectorPrior(distribution, SHAPES), terms=(ItemDeviations(0.2),))
    torch.set_default_dtype(torch.float64)
    try:
        back = decode(json.loads(json.dumps(encode(priors))))
    finally:
        torch.set_default_dtype(torch.float32)
    assert dict(back.vector.shapes) == SHAPES
    assert type(back.vector.distribution) is type(distribution)
    assert torch.allclose(back.vector.distribution.covariance_matrix, distribution.covariance_matrix, rtol=1e-12)
    assert torch.equal(back.vector.distribution.mean, distribution.mean)


def test_what_is_refused():
    eye, psi = dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), torch.randn(P, K)
    cases = [
        (lambda: VectorPrior(dist.Normal(0.0, 1.0), {"w_a": ()}), "expected a MultivariateNormal, Low.*got Normal"),
        (lambda: VectorPrior(eye, {"w_a": ()}), r"its sites have 1 numbers.*got \(2,\) and \(\)"),
        (lambda: VectorPrior(eye, {KAPPA: (1,), W_A: ()}), "expected 'kappa' as its last site"),
        (
            lambda: BanditPriors(vector=VectorPrior(eye, {W_A: (), W_C: ()}), sites={W_A: dist.Normal(0.0, 1.0)}),
            "`sites` must be empty",
        ),
        (
            lambda: BanditModel(psi, BanditPriors(vector=VectorPrior(eye, {W_A: (), W_C: ()}))),
            r"vector: .*has the sites \['w_a', 'w_b', 'w_c', 'kappa', 'zeta'\], .*got \['w_a', 'w_c'\]",
        ),
    ]
    for make_it, message in cases:
        with pytest.raises(ValueError, match=message):
            make_it()


def test_a_draw_of_the_vector_moves_all_sites():
    """Under Pyro's own conditioning."""
    model = make(arrowhead())
    value = torch.arange(float(D)).double()
    trace = poutine.trace(poutine.condition(model, data={MULTIVARIATE: value})).get_trace(model.example_batch())
    assert torch.equal(trace.nodes[KAPPA]["value"], value[-P:])


def test_the_distribution_by_its_old_name():
    distribution = distributions()["full"]
    with pytest.warns(DeprecationWarning, match="VectorPrior: 'law' is now called 'distribution'"):
        prior = VectorPrior(law=distribution, shapes=SHAPES)
    with pytest.warns(DeprecationWarning, match="VectorPrior: 'law' is now called 'distribution'"):
        assert prior.law is distribution is prior.distribution
    assert "law" in encode(prior)["fields"]  # what older versions read and wrote
