"""Bounds are bounds: below the exact likelihood by quadrature, tight at their optimum, unbiased when sampled."""

import math
from collections import Counter

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch.distributions import kl_divergence

from blob_pyro.distributions import SoftmaxViews
from blob_pyro.guides import OffsetNetwork
from blob_pyro.infer import BOUNDS, Bouchard, LogConcave, OneVsEach, Reparameterized
from blob_pyro.infer.bounds.log_normalizers import bouchard, bouchard_offset, curvature
from blob_pyro.ops import row_chunks

P = 11
VIEWS = torch.tensor([[4, 0, 0, -1, -1], [2, -1, -1, -1, -1], [-1, -1, -1, -1, -1], [1, 3, 6, 6, 6]])
B = len(VIEWS)
SCALES = torch.tensor([1.5, 0.4], dtype=torch.float64)  # of the columns of Psi: unequal
NAMES = list(BOUNDS)


def story(embedding_dim, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    psi, rho = normal(P, embedding_dim) * SCALES[:embedding_dim], normal(P)
    loc, scale = normal(B, embedding_dim), torch.rand(B, embedding_dim, generator=generator).double() + 0.2
    below = normal(B, embedding_dim, embedding_dim).tril(-1) * 0.5
    return psi, rho, loc, scale, below


def posterior(loc, scale, below, full):
    if not full:
        return dist.Normal(loc, scale).to_event(1)
    return dist.MultivariateNormal(loc, scale_tril=below + scale.diag_embed())


def estimate(bound, psi, rho, q, num_draws):
    """Draws of the bound, ``num_draws x B``."""
    lengths = (VIEWS >= 0).sum(-1)
    return torch.stack(
        [bound.expected_log_prob(SoftmaxViews(q.rsample(), psi, rho, lengths), q, VIEWS) for _ in range(num_draws)]
    )


def log_likelihood(omega, psi, rho):
    """By torch's own log-softmax and a loop: ``N x B`` for ``N x K`` interests."""
    log_probs = (omega @ psi.T + rho).log_softmax(-1)
    counts = torch.tensor([[Counter(views)[p] for p in range(P)] for views in VIEWS.tolist()], dtype=torch.float64)
    return log_probs @ counts.T


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


def test_an_exact_guide_leaves_no_gap_and_no_noise():
    """Items that do not depend on omega: the prior is the posterior."""
    rho = torch.randn(P).double()
    q = posterior(torch.zeros(B, 2).double(), torch.ones(B, 2).double(), None, full=False)
    exact = log_likelihood(torch.zeros(1, 2).double(), torch.zeros(P, 2).double(), rho)[0]
    for bound in (Reparameterized(), Reparameterized(3), LogConcave()):
        draws = estimate(bound, torch.zeros(P, 2).double(), rho, q, 3)
        assert torch.allclose(draws, exact.expand(3, -1), atol=1e-12)


def test_log_concave_is_tight_for_a_sure_interest():
    psi, rho, loc, *_ = story(2)
    q = posterior(loc, torch.full_like(loc, 1e-6), None, full=False)
    exact = log_likelihood(loc, psi, rho).diagonal()
    assert torch.allclose(estimate(LogConcave(), psi, rho, q, 1)[0], exact, atol=1e-6)


def test_one_vs_each_is_exact_for_two_items():
    psi, rho = torch.tensor([[1.0], [-0.5]]).double(), torch.tensor([0.3, 0.0]).double()
    omega = torch.tensor([[0.7]]).double()
    views = torch.tensor([[0, 1, 1]])
    q = dist.Normal(omega, 1e-9).to_event(1)
    bound = OneVsEach().expected_log_prob(SoftmaxViews(omega, psi, rho, torch.tensor([3])), q, views)
    log_probs = (omega @ psi.T + rho).log_softmax(-1)[0]
    assert bound.item() == pytest.approx((log_probs[0] + 2 * log_probs[1]).item(), rel=1e-12)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("num_items", [3, 40])
def test_bouchard_s_parameters_are_optimal(num_items, spread):
    """Against SciPy minimising the formula of the paper's section 6.1 over a and every xi."""
    generator = torch.Generator().manual_seed(num_items)
    mean = spread * torch.randn(1, num_items, generator=generator).double()
    variance = spread * torch.rand(1, num_items, generator=generator).double()
    offset = bouchard_offset(mean, variance)
    ours = bouchard(mean, variance, offset).item()
    m, v = mean[0].numpy(), variance[0].numpy()

    def formula(parameters):
        a, xi = parameters[0], np.exp(parameters[1:])
        lam = (expit(xi) - 0.5) / (2 * xi)
        return a + np.sum((m - a - xi) / 2 + lam * ((m - a) ** 2 + v - xi**2) + np.logaddexp(0, xi))

    best = minimize(formula, np.zeros(1 + num_items), method="BFGS", options={"gtol": 1e-7, "maxiter": 5000})
    assert ours == pytest.approx(best.fun, rel=1e-6)
    assert ours <= best.fun + 1e-9
    assert offset.item() == pytest.approx(best.x[0], abs=2e-3)


def test_curvature_against_its_definition_and_its_limit():
    xi = torch.tensor([1e-3, 0.5, 3.0, 40.0]).double()
    assert torch.allclose(curvature(xi), (torch.sigmoid(xi) - 0.5) / (2 * xi), rtol=1e-9)
    assert curvature(torch.tensor(0.0)).item() == pytest.approx(1 / 8, rel=1e-6)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("make", [Bouchard, LogConcave, OneVsEach])
def test_sampled_items_are_unbiased(make, full):
    """Mean over many draws of the sampled bound, against the bound over all items, same offset and same omega."""
    torch.manual_seed(4)
    psi, rho, *parameters = story(2)
    q = posterior(*parameters, full)
    options = {} if make is OneVsEach else {"offsets": OffsetNetwork(P, 2).double()}
    omega = q.rsample()
    views = SoftmaxViews(omega, psi, rho, (VIEWS >= 0).sum(-1))
    with torch.no_grad():
        whole = make(**options).expected_log_prob(views, q, VIEWS)
        sampled = make(num_negatives=3, **options)
        draws = torch.stack([sampled.expected_log_prob(views, q, VIEWS) for _ in range(4000)])
    some = (VIEWS >= 0).any(-1)
    error = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - whole).abs() < 4 * error + 1e-12)[some].all()
    assert (error[some] > 0).all()
    assert (draws[:, ~some] == 0).all()


@pytest.mark.parametrize("make", [Bouchard, LogConcave])
def test_without_a_network_the_sampled_bound_is_still_a_bound(make):
    """The offset comes from other items than those it is used with, so in expectation no bound is better than the best;
    with many items it is nearly that."""
    psi, rho, *parameters = story(2)
    q = posterior(*parameters, full=False)
    whole = estimate(make(), psi, rho, q, 1)[0]
    views = (VIEWS >= 0).sum(-1)
    some = views > 0
    for num_negatives, gap in ((5, math.inf), (1000, 0.05)):
        draws = estimate(make(num_negatives=num_negatives), psi, rho, q, 1000)
        error = draws.std(0) / 1000**0.5
        assert (draws.mean(0) < whole + 4 * error)[some].all()
        assert (draws.mean(0) > whole - gap * views - 4 * error)[some].all()


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


def test_more_samples_less_noise():
    psi, rho, *parameters = story(2)
    q = posterior(*parameters, full=True)
    one, ten = (estimate(Reparameterized(n), psi, rho, q, 2000)[:, 3].var() for n in (1, 10))
    assert 6 < one / ten < 16


def test_mirror_images_remove_most_of_the_noise():
    """Against the estimator with only its linear term in closed form, on a session of five views."""
    psi, rho, loc, scale, _ = story(2)
    q = posterior(loc, 0.3 * scale, None, full=False)
    mirrored = estimate(Reparameterized(), psi, rho, q, 2000)[:, 3].var()
    normalizer = (q.sample((2000,))[:, 3] @ psi.T + rho).logsumexp(-1)
    assert mirrored < 0.2 * (5 * normalizer).var()


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
