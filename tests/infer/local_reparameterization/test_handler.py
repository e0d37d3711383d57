"""Local reparameterisation: the same expectation, much less noise, one model for every guide."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import Adam
from pyro.poutine.messenger import Messenger
from torch.nn.functional import softplus

from blob_pyro.guides import make_guide
from blob_pyro.infer import GuidedELBO, LocalReparameterization
from blob_pyro.infer.local_reparameterization.projections import project
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors
from blob_pyro.models.sites import CLICK

P, K, C, N = 9, 4, 6, 1500


LOCAL = GuidedELBO(LocalReparameterization)


PLAIN = TraceMeanField_ELBO()


@pytest.fixture
def batch():
    return BanditBatch(
        interest=2 * torch.randn(C, K, dtype=torch.float64),
        context=torch.randint(C, (N,)),
        action=torch.randint(P, (N,)),
        reward=(torch.rand(N) < 0.2).double(),
        num_events=N,
    )


GAUSSIAN = ["normal", "matrix_normal", "matrix_normal_full", "low_rank", "full", "laplace"]


def make(guide_name, w_b=0.5):
    """A model whose zeta matters, and a guide with unequal scales that is not at a special point."""
    psi = torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.3, 1.0, 0.5, 2.0])
    model = BanditModel(psi, BanditPriors(w_b=dist.Normal(w_b, 0.3)))
    guide = make_guide(guide_name, model)
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            is_scale = name.endswith("scale_unconstrained")
            parameter.add_((0.5 if is_scale else 0.2) * torch.randn_like(parameter) + (1.0 if is_scale else 0.0))
        if guide_name == "laplace":
            guide.loading.copy_(0.1 * torch.randn_like(guide.loading))
            guide.shared_scale_tril.copy_(
                (guide.shared_scale_tril + 0.1 * torch.randn_like(guide.shared_scale_tril)).tril()
            )
            guide.shared_scale_tril.diagonal().abs_().add_(0.05)
    return model, guide


def make_delta():
    model = BanditModel(torch.randn(P, K, dtype=torch.float64), BanditPriors(kappa_scale=0.3))
    guide = make_guide("delta", model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, guide


def losses(elbo, model, guide, batch, num_draws):
    """Unvalidated, as there are many: that distributions get what they take is looked at where gradients are."""
    with torch.no_grad(), pyro.validation_enabled(False):
        return torch.tensor([elbo.differentiable_loss(model, guide, batch) for _ in range(num_draws)])


MANY_DRAWS = {"matrix_normal_full", "low_rank"}  # of what "matrix_normal" and "full" draw, too


@pytest.mark.parametrize(
    "guide_name", [pytest.param(n, marks=[pytest.mark.slow] if n in MANY_DRAWS else []) for n in GAUSSIAN]
)
def test_same_mean_less_variance(guide_name, batch):
    model, guide = make(guide_name)
    local, plain = losses(LOCAL, model, guide, batch, 80), losses(PLAIN, model, guide, batch, 300)
    error = (local.var() / 80 + plain.var() / 300).sqrt()
    assert abs(local.mean() - plain.mean()) < 4 * error
    assert local.var() < plain.var() / 50


@pytest.mark.parametrize("guide_name", [*GAUSSIAN[:-1], "delta"])
@pytest.mark.parametrize("elbo", [LOCAL, PLAIN], ids=["local", "plain"])
def test_every_gradient_is_finite_and_nonzero(guide_name, elbo, batch):
    model, guide = make(guide_name) if guide_name != "delta" else make_delta()
    elbo.differentiable_loss(model, guide, batch).backward()
    for name, parameter in (*model.named_parameters(), *guide.named_parameters()):
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).all(), name


def test_number_of_parameters_is_the_paper_s():
    _, normal = make("normal")
    _, matrix_normal = make("matrix_normal")
    assert sum(p.numel() for p in normal.parameters()) == 2 * (P + K**2 + 3)
    assert sum(p.numel() for p in matrix_normal.parameters()) == 2 * (P + 3) + K**2 + 2 * K


@pytest.mark.parametrize("guide_name", GAUSSIAN)
def test_a_guide_equal_to_the_prior_has_no_kl(guide_name, batch, monkeypatch):
    """Without events the loss of an exact guide is 0 = -log evidence, with zero variance."""
    monkeypatch.setattr("blob_pyro.guides.bandit.WIDEST_START", math.inf)
    model = BanditModel(torch.randn(P, K, dtype=torch.float64), BanditPriors())
    guide = make_guide(guide_name, model)
    with torch.no_grad():
        if guide_name == "low_rank":
            guide.factor.zero_()
    nothing_seen = poutine.block(model, hide=[CLICK])
    assert losses(LOCAL, nothing_seen, guide, batch, 3).abs().max() < 1e-9


LINEAR = BanditPriors(w_a=0.4, w_b=0.1, w_c=dist.Normal(-1.0, 2.0), kappa_scale=0.7)


@pytest.mark.parametrize("guide_name", ["full", "laplace"])
def test_exact_guide_of_a_conjugate_problem(guide_name, batch):
    """Gaussian rewards: the posterior is Gaussian, and correlated. The loss is -log evidence."""
    model = GaussianRewards(torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.3, 1.0, 0.5, 2.0]), LINEAR)
    guide = make_guide(guide_name, model)
    rewards = torch.randn(400, dtype=torch.float64)
    batch = replace(batch, context=batch.context[:400], action=batch.action[:400], reward=rewards, num_events=400)
    design = torch.func.jacrev(lambda theta: model.logit(unpack(guide, theta), batch))(guide.prior_loc)
    mean, deviation = guide.prior_loc, guide.prior_scale
    covariance = (design * deviation.square()) @ design.mT + NOISE**2 * torch.eye(400).double()
    offset = model.logit(unpack(guide, torch.zeros_like(mean)), batch)
    evidence = dist.MultivariateNormal(design @ mean + offset, covariance).log_prob(rewards)
    precision = design.mT @ design / NOISE**2 + deviation.square().reciprocal().diag()
    exact = torch.linalg.inv(precision)
    exact_mean = exact @ (design.mT @ (rewards - offset) / NOISE**2 + mean / deviation.square())
    with torch.no_grad():
        guide.loc.copy_(exact_mean)
        if guide_name == "full":
            tril = torch.linalg.cholesky(exact)
            guide.scale = tril.diagonal()
            row, column = torch.tril_indices(len(mean), len(mean), offset=-1)
            guide.lower.copy_((tril / tril.diagonal().unsqueeze(-1))[row, column])
        else:
            shared = len(mean) - P
            guide.shared_scale_tril.copy_(torch.linalg.cholesky(exact[:shared, :shared]))
            guide.loading.copy_(
                torch.linalg.solve_triangular(guide.shared_scale_tril, exact[:shared, shared:], upper=False).mT
            )
            guide.own_scale.copy_(precision.diagonal()[shared:].rsqrt())
    weight_space = losses(PLAIN, model, guide, batch, 150)
    local = losses(LOCAL, model, guide, batch, 150)
    for found in (weight_space, local):
        assert abs(found.mean() + evidence) < 4 * found.std() / 150**0.5 + 1e-6
    assert local.var() < weight_space.var()
    analytic = losses(GuidedELBO(LocalReparameterization, ExpectedSquare), model, guide, batch, 3)
    assert torch.allclose(analytic, -evidence.expand(3), rtol=1e-9)


NOISE = 3.0


class GaussianRewards(BanditModel):
    """The same story with a reward on the real line."""

    def forward(self, batch, items=None):
        values = {name: pyro.sample(name, prior) for name, prior in self.site_priors().items()}
        with batch.plate():
            return pyro.sample(CLICK, dist.Normal(self.logit(values, batch), NOISE), obs=batch.reward)


class ExpectedSquare(Messenger):
    """Takes each logit's distribution from its parts, and the Gaussian likelihood's expectation in closed form."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior
        self.loc, self.factor, self.own, self.strengths = [], [], [], []

    def _pyro_linear(self, msg):
        distribution = project(self.posterior[msg["name"]], *msg["args"][1:]) if msg["name"] in self.posterior else None
        if distribution is not None:
            strength = softplus(torch.tensor(0.1).double()) if msg["name"] == "zeta" else 1.0
            self.factor.append(strength * distribution.factor)
            if distribution.scale is not None:
                self.own.append((strength * distribution.scale) ** 2)
            msg["value"], msg["done"] = distribution.loc, True

    def _pyro_sample(self, msg):
        if msg["name"] == CLICK:
            variance = sum(self.factor).square().sum(-1) + sum(self.own)
            msg["fn"] = ExpectedNormal(msg["fn"].loc, msg["fn"].scale, variance)


class ExpectedNormal(dist.Normal):
    def __init__(self, loc, scale, variance):
        super().__init__(loc, scale)
        self.extra = variance

    def log_prob(self, value):
        return super().log_prob(value) - 0.5 * self.extra / self.scale**2


def unpack(guide, theta):
    return {name: part.v for name, part in guide.parts(theta, dist.Normal(theta, 1.0)).items()}


def test_autonormal_composes(batch):
    """Its sites are points where a normal was drawn: the normal is what is projected."""
    model, _ = make("normal")
    guide = make_guide(AutoNormal, model)
    local, plain = losses(LOCAL, model, guide, batch, 120), losses(PLAIN, model, guide, batch, 300)
    assert abs(local.mean() - plain.mean()) < 4 * (local.var() / 120 + plain.var() / 300).sqrt()
    assert local.var() < plain.var() / 4


def test_other_guides_fall_back_to_their_samples(batch):
    """Nothing to project, nothing to break."""
    model, _ = make("normal")
    guide = make_guide(AutoMultivariateNormal, model)
    torch.manual_seed(3)
    plain = losses(PLAIN, model, guide, batch, 1)
    torch.manual_seed(3)
    assert torch.equal(losses(LOCAL, model, guide, batch, 1), plain)


def test_plain_svi_improves_the_model(batch):
    model, guide = make("normal")
    before = losses(LOCAL, model, guide, batch, 20).mean()
    for elbo in (PLAIN, LOCAL):
        svi = SVI(model, guide, Adam({"lr": 0.05}), elbo)
        for _ in range(60):
            svi.step(batch)
    assert losses(LOCAL, model, guide, batch, 20).mean() < before - 50
    assert {"zeta_scale", "kappa_scale"} <= {name.split(".")[-1] for name in pyro.get_param_store()}
