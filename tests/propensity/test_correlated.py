"""Correlated normals: exact cases, independent Monte Carlo, agreement of the ways, calibrated errors."""

import math

import pytest
import torch
from scipy.stats import multivariate_normal, t

from blob_pyro.propensity import (
    ArgmaxConditionallyNormal,
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
)
from tests.propensity.propensity_oracles import double, standard_errors

DRAWS = 400_000


def _problem(num_actions, rank, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    loc, factor = 0.7 * normal(num_actions), normal(num_actions, rank) / rank**0.5
    diagonal = noise * (0.5 + torch.rand(num_actions, dtype=torch.float64, generator=generator))
    return loc, factor, diagonal


def _frequencies(loc, factor, diagonal):
    """Counts of winners among draws that the library has no part in."""
    generator = torch.Generator().manual_seed(99)
    counts = torch.zeros_like(loc)
    for _ in range(8):
        shared = torch.randn(DRAWS // 8, factor.shape[-1], dtype=torch.float64, generator=generator)
        own = torch.randn(DRAWS // 8, len(loc), dtype=torch.float64, generator=generator)
        scores = loc + shared @ factor.T + own * diagonal.sqrt()
        counts += torch.bincount(scores.argmax(-1), minlength=len(loc))
    return counts / DRAWS


LOW_RANK_CASES = {
    "quadrature, one factor": (6, 1, 0.3, "quadrature"),
    "quadrature, two factors": (6, 2, 0.5, "quadrature"),
    "orthants": (8, 4, 0.05, "orthants"),
    "conditional": (30, 5, 0.5, "conditional"),
    "conditional, small factors": (40, 20, 4.0, "conditional"),
    "envelope, one factor": (7, 1, 0.0, "envelope"),
    "envelope, three factors": (30, 3, 0.0, "envelope"),
    "orthants, singular": (16, 5, 0.0, "orthants"),
    "exact": (3, 2, 0.1, "exact"),
}


@pytest.mark.parametrize(("num_actions", "rank", "noise", "method"), LOW_RANK_CASES.values(), ids=LOW_RANK_CASES)
def test_low_rank_matches_monte_carlo(num_actions, rank, noise, method):
    loc, factor, diagonal = _problem(num_actions, rank, noise)
    d = ArgmaxLowRankNormal(loc, factor, diagonal)
    assert d.method == method
    spread = (d.probs * (1 - d.probs) / DRAWS + d.error_estimate.square()).sqrt().clamp_min(1 / DRAWS)
    assert ((d.probs - _frequencies(loc, factor, diagonal)) / spread).abs().max() < 4.5
    assert abs(d.probs.sum().item() - 1) < 5 * d.error_estimate.norm() + 1e-7


@pytest.mark.parametrize("num_actions", [4, 12, 30])
def test_full_and_low_rank_covariances_agree(num_actions):
    loc, factor, diagonal = _problem(num_actions, 3, 0.4)
    low_rank = ArgmaxLowRankNormal(loc, factor, diagonal)
    full = ArgmaxMultivariateNormal(loc, factor @ factor.T + diagonal.diag(), seed=1)
    spread = (low_rank.error_estimate.square() + full.error_estimate.square()).sqrt()
    # Rarer actions are decided by few of the points, and their error estimate by few of the replicates.
    common = low_rank.probs > 1e-3
    assert ((low_rank.probs - full.probs).abs() / spread.clamp_min(1e-7))[common].max() < 5


@pytest.mark.parametrize("method", ["orthants", "conditional", "quadrature"])
def test_ways_agree_where_several_apply(method):
    loc, factor, diagonal = _problem(6, 2, 0.5)
    reference = ArgmaxLowRankNormal(loc, factor, diagonal, method="orthants", num_points=4096, seed=5)
    other = ArgmaxLowRankNormal(loc, factor, diagonal, method=method, num_points=512)
    spread = (reference.error_estimate.square() + other.error_estimate.square()).sqrt()
    assert ((reference.probs - other.probs).abs() / spread.clamp_min(1e-7)).max() < 5


def test_three_actions_match_scipy():
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(20, 3, 3, dtype=torch.float64, generator=generator)
    loc = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    covariance = root @ root.mT
    probs = ArgmaxMultivariateNormal(loc, covariance).probs
    for row in range(20):
        for own in range(3):
            others = [j for j in range(3) if j != own]
            contrast = torch.zeros(2, 3, dtype=torch.float64)
            contrast[:, own] = -1
            contrast[0, others[0]] = contrast[1, others[1]] = 1
            expected = multivariate_normal.cdf(
                -(contrast @ loc[row]).numpy(), cov=(contrast @ covariance[row] @ contrast.T).numpy(), abseps=1e-12
            )
            assert abs(probs[row, own].item() - expected) < 1e-9
    assert (probs.sum(-1) - 1).abs().max() < 1e-13


def test_three_actions_on_a_line_are_exact():
    """Rank one and no noise: scores 0, z and 2 z + 1 cross at known places."""
    loc, factor = double(0.0, 0.0, 1.0), double(0.0, 1.0, 2.0)[:, None]
    phi = torch.special.ndtr(double(-1.0, -0.5))
    # 2z + 1 > 0 and > z where z > -1/2; below that 0 > z.
    expected = torch.stack([phi[1], torch.zeros_like(phi[0]), 1 - phi[1]])
    for d in (
        ArgmaxLowRankNormal(loc, factor, torch.zeros(3).double(), method="envelope"),
        ArgmaxMultivariateNormal(loc, factor @ factor.T),
    ):
        torch.testing.assert_close(d.probs, expected, rtol=0, atol=1e-12)


def test_two_actions_are_a_single_normal_cdf():
    covariance = double(2.0, 0.9, 0.9, 0.5).reshape(2, 2)
    d = ArgmaxMultivariateNormal(double(0.3, 0.0), covariance)
    assert d.probs[0].item() == pytest.approx(torch.special.ndtr(double(0.3 / math.sqrt(0.7))).item(), abs=1e-15)


@pytest.mark.parametrize("minimum", [False, True], ids=["argmax", "argmin"])
def test_a_diagonal_covariance_is_the_independent_case(minimum):
    loc, _, diagonal = _problem(9, 1, 0.5)
    d = ArgmaxMultivariateNormal(loc, diagonal.diag(), minimum=minimum)
    assert d.method == "independent"
    expected = ArgmaxNormal(loc, diagonal.sqrt(), minimum=minimum).probs
    torch.testing.assert_close(d.probs, expected, rtol=0, atol=1e-14)


def test_minimum_is_the_maximum_of_the_mirror_image():
    loc, factor, diagonal = _problem(8, 4, 0.05)
    smallest = ArgmaxLowRankNormal(loc, factor, diagonal, minimum=True)
    mirrored = ArgmaxLowRankNormal(-loc, factor, diagonal, seed=1)
    spread = (smallest.error_estimate.square() + mirrored.error_estimate.square()).sqrt()
    assert ((smallest.probs - mirrored.probs).abs() / spread).max() < 5


def test_what_all_scores_share_does_not_matter():
    loc, factor, diagonal = _problem(12, 2, 2.0)
    common = torch.cat([factor, torch.full((12, 1), 1e3).double()], dim=-1)
    d, shifted = ArgmaxLowRankNormal(loc, factor, diagonal), ArgmaxLowRankNormal(loc, common, diagonal)
    assert shifted.method == d.method == "quadrature"
    torch.testing.assert_close(shifted.probs, d.probs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["orthants", "conditional", "envelope"])
def test_error_estimates_are_calibrated(method):
    """Errors over estimates follow Student's t: as many as should exceed its 95 % point do, no more, no fewer."""
    noise = 0.0 if method == "envelope" else 0.3
    loc, factor, diagonal = _problem(6, 4, noise)
    truth = ArgmaxLowRankNormal(loc, factor, diagonal, method=method, num_points=8192, seed=12345).probs
    # An action so rare that no line of a small sample shows it has an estimated error of 0.
    common = truth > 0.01
    ratios = []
    for seed in range(50):
        d = ArgmaxLowRankNormal(loc, factor, diagonal, method=method, num_points=64, seed=seed)
        ratios.append(((d.probs - truth) / d.error_estimate)[common])
    covered = (torch.stack(ratios).abs() < t.ppf(0.95, df=15)).double().mean().item()
    # 50 independent vectors: the coverage of 90 % has a standard error of at most 4 %.
    assert 0.8 < covered < 0.98


def test_linear_model_is_correlated_and_its_marginals_are_not_enough():
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(20, 2, dtype=torch.float64, generator=generator)
    theta = double(0.3, -0.2)
    covariance = double(1.0, 0.3, 0.3, 0.5).reshape(2, 2)
    d = ArgmaxMultivariateNormal.from_linear(theta, covariance, features)
    root = torch.linalg.cholesky(covariance)
    frequency = _frequencies(features @ theta, features @ root, torch.zeros(20).double())
    assert standard_errors(d.probs, frequency, DRAWS) < 5
    marginals = ArgmaxMultivariateNormal.from_linear(theta, covariance, features, marginals_only=True)
    expected = ArgmaxNormal(features @ theta, (features @ covariance * features).sum(-1).sqrt()).probs
    torch.testing.assert_close(marginals.probs, expected, rtol=0, atol=1e-12)
    assert 0.5 * (marginals.probs - d.probs).abs().sum() > 0.2


@pytest.mark.parametrize("method", ["exact", "orthants", "conditional", "quadrature", "envelope"])
def test_gradients(method):
    num_actions, noise = (3, 0.5) if method == "exact" else (4, 0.0 if method == "envelope" else 0.5)
    loc, factor, diagonal = _problem(num_actions, 2, noise)
    inputs = [loc.requires_grad_()] + ([] if method == "envelope" else [diagonal.requires_grad_()])

    def probs(loc, diagonal=diagonal):
        return ArgmaxLowRankNormal(loc, factor, diagonal, method=method, num_points=16, num_replicates=2).probs

    # The inner vectors of averages over shared normals are good to 1e-8, their differences accordingly.
    assert torch.autograd.gradcheck(probs, inputs, eps=1e-4, atol=2e-4)


def test_nonlinear_locations():
    """Two shared scalars that multiply the means: no multivariate normal, but conditionally independent."""
    loc, direction = double(0.5, -0.3, 0.0, 0.2), double(1.0, 0.5, -1.0, 0.0)

    def location(z):
        return torch.nn.functional.softplus(z[:, :1]) * loc + torch.nn.functional.softplus(z[:, 1:]) * direction

    scale = double(0.5, 1.0, 0.3, 0.0)
    d = ArgmaxConditionallyNormal(location, scale, num_shared=2, num_points=256)
    generator = torch.Generator().manual_seed(7)
    z, own = (torch.randn(DRAWS, k, dtype=torch.float64, generator=generator) for k in (2, 4))
    frequency = torch.bincount((location(z) + scale * own).argmax(-1), minlength=4) / DRAWS
    assert standard_errors(d.probs, frequency, DRAWS) < 4.5
    assert d.error_estimate.max() < 1e-3
    drawn = torch.bincount(d.sample((DRAWS,)), minlength=4) / DRAWS
    assert standard_errors(d.probs, drawn, DRAWS) < 4.5


def test_batches_of_contexts():
    generator = torch.Generator().manual_seed(8)
    loc = torch.randn(5, 1, 30, dtype=torch.float64, generator=generator)
    _, factor, diagonal = _problem(30, 4, 2.0)
    d = ArgmaxLowRankNormal(loc, factor, diagonal)
    assert d.batch_shape == (5, 1)
    assert d.probs.shape == d.error_estimate.shape == (5, 1, 30)
    alone = ArgmaxLowRankNormal(loc[3, 0], factor, diagonal, num_points=d.num_points)
    torch.testing.assert_close(d.probs[3, 0], alone.probs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("cls", ["low rank", "full"])
def test_samples_follow_the_probabilities(cls):
    loc, factor, diagonal = _problem(5, 2, 0.3)
    if cls == "low rank":
        d = ArgmaxLowRankNormal(loc, factor, diagonal)
    else:
        d = ArgmaxMultivariateNormal(loc, factor @ factor.T + diagonal.diag())
    frequency = torch.bincount(d.sample((200_000,)), minlength=5) / 200_000
    assert standard_errors(d.probs, frequency, 200_000) < 4.5


@pytest.mark.cuda
def test_cuda_agrees_with_cpu():
    loc, factor, diagonal = _problem(8, 4, 0.3)
    here = ArgmaxLowRankNormal(loc, factor, diagonal)
    there = ArgmaxLowRankNormal(loc.cuda(), factor.cuda(), diagonal.cuda())
    assert there.probs.is_cuda
    torch.testing.assert_close(there.probs.cpu(), here.probs, rtol=0, atol=1e-9)
