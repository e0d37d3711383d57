"""Local reparameterisation: the same expectation, much less noise, one model for every guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import Adam

from blob_pyro.distributions import MatrixNormal
from blob_pyro.guides import GUIDES
from blob_pyro.infer import GuidedELBO, LocalReparameterization
from blob_pyro.infer.projections import project_bilinear, project_gather, project_right
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


def make(guide_name, w_b=0.5):
    """A model whose zeta matters, and a guide with unequal scales that is not at a special point."""
    psi = torch.randn(P, K, dtype=torch.float64) * torch.tensor([0.3, 1.0, 0.5, 2.0])
    model = BanditModel(psi, BanditPriors(w_b=dist.Normal(w_b, 0.3)))
    guide = GUIDES[guide_name](model)
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            spread = 0.5 if name.endswith("_scale_unconstrained") else 0.3
            parameter.add_(spread * torch.randn_like(parameter) + (1.5 if spread == 0.5 else 0.0))
    return model, guide


def losses(elbo, model, guide, batch, num_draws):
    with torch.no_grad():
        return torch.tensor([elbo.differentiable_loss(model, guide, batch) for _ in range(num_draws)])


@pytest.mark.parametrize("guide_name", sorted(GUIDES))
def test_same_mean_less_variance(guide_name, batch):
    model, guide = make(guide_name)
    local, plain = losses(LOCAL, model, guide, batch, 200), losses(PLAIN, model, guide, batch, 800)
    error = (local.var() / 200 + plain.var() / 800).sqrt()
    assert abs(local.mean() - plain.mean()) < 4 * error
    assert local.var() < plain.var() / 50


@pytest.mark.parametrize("guide_name", sorted(GUIDES))
@pytest.mark.parametrize("elbo", [LOCAL, PLAIN], ids=["local", "plain"])
def test_every_gradient_is_finite_and_nonzero(guide_name, elbo, batch):
    model, guide = make(guide_name)
    elbo.differentiable_loss(model, guide, batch).backward()
    for name, parameter in (*model.named_parameters(), *guide.named_parameters()):
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).all(), name


def test_number_of_parameters_is_the_paper_s():
    _, normal = make("normal")
    _, matrix_normal = make("matrix_normal")
    assert sum(p.numel() for p in normal.parameters()) == 2 * (P + K**2 + 3)
    assert sum(p.numel() for p in matrix_normal.parameters()) == 2 * (P + 3) + K**2 + 2 * K


@pytest.mark.parametrize("guide_name", sorted(GUIDES))
def test_a_guide_equal_to_the_prior_has_no_kl(guide_name, batch):
    """Without events the loss of an exact guide is 0 = -log evidence, with zero variance."""
    model = BanditModel(torch.randn(P, K, dtype=torch.float64), BanditPriors())
    guide = GUIDES[guide_name](model)
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            if name.startswith("zeta") and name.endswith("scale_unconstrained"):
                parameter.zero_()
        for name in ("w_a", "w_b", "w_c", "kappa"):
            prior = model.site_priors()[name]
            getattr(guide, f"{name}_scale_unconstrained").copy_(prior.stddev.log())
    nothing_seen = poutine.block(model, hide=[CLICK])
    assert losses(LOCAL, nothing_seen, guide, batch, 3).abs().max() < 1e-9


@pytest.mark.parametrize("auto", [AutoNormal, AutoMultivariateNormal])
def test_other_guides_fall_back_to_their_samples(auto, batch):
    """AutoNormal's sites are Delta distributions of what it drew: nothing to project, nothing to break."""
    model, _ = make("normal")
    guide = auto(model)
    guide(batch)
    torch.manual_seed(3)
    plain = losses(PLAIN, model, guide, batch, 1)
    torch.manual_seed(3)
    assert torch.equal(losses(LOCAL, model, guide, batch, 1), plain)


def test_plain_svi_improves_the_model(batch):
    model, guide = make("normal")
    before = losses(LOCAL, model, guide, batch, 50).mean()
    for elbo in (PLAIN, LOCAL):
        svi = SVI(model, guide, Adam({"lr": 0.02}), elbo)
        for _ in range(150):
            svi.step(batch)
    assert losses(LOCAL, model, guide, batch, 50).mean() < before - 50
    assert {"zeta_scale", "kappa_scale"} <= {name.split(".")[-1] for name in pyro.get_param_store()}


# --- projections: closed forms against draws, with unequal scales ----------------------------------------------------

LEFT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]).double()
RIGHT = torch.tensor([[0.3, 1.0], [-2.0, 0.7]]).double()


def matrix_posteriors():
    torch.manual_seed(4)
    loc = torch.randn(3, 2).double()
    row = torch.tensor([[0.2, 0, 0], [1.0, 2.0, 0], [-0.5, 0.3, 0.7]]).double()
    column = torch.tensor([[1.5, 0], [-1.0, 0.1]]).double()
    return {
        "independent": dist.Normal(loc, torch.tensor([[0.1, 2.0], [1.0, 0.3], [0.5, 4.0]]).double()).to_event(2),
        "matrix normal": MatrixNormal(loc, row, column),
    }


@pytest.mark.parametrize("name", ["independent", "matrix normal"])
def test_projections_have_the_law_of_what_they_replace(name):
    posterior = matrix_posteriors()[name]
    draws = posterior.sample((200_000,))
    n = 200_000**0.5
    law = project_bilinear(posterior, LEFT, RIGHT)
    values = torch.einsum("ni,sij,nj->sn", LEFT, draws, RIGHT)
    assert ((values.mean(0) - law.mean).abs() < 4 * law.stddev / n).all()
    assert ((values.std(0) / law.stddev - 1).abs() < 4 / (2**0.5 * n)).all()
    loc, factor = project_right(posterior, RIGHT)
    values = torch.einsum("sij,nj->nsi", draws, RIGHT)
    assert torch.allclose(values.mean(1), loc, atol=0.05)
    for rows, f in zip(values, factor):
        covariance = f @ f.mT
        spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / n
        assert ((rows.mT.cov() - covariance).abs() < 5 * spread + 1e-12).all()


def test_gather_picks_entries():
    posterior = dist.Normal(torch.arange(4.0), torch.tensor([0.1, 1.0, 2.0, 5.0])).to_event(1)
    law = project_gather(posterior, torch.tensor([2, 0, 2]))
    assert law.loc.tolist() == [2, 0, 2]
    assert law.scale.tolist() == pytest.approx([2, 0.1, 2])


def test_unknown_families_have_no_projection():
    assert project_bilinear(dist.Delta(torch.zeros(3, 2)), LEFT, RIGHT) is None
    assert project_bilinear(dist.Laplace(torch.zeros(3, 2), 1.0).to_event(2), LEFT, RIGHT) is None
