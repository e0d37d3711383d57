"""Correlated normals: exact cases, independent Monte Carlo, agreement of the ways, calibrated errors."""

import pytest
import torch
from scipy.stats import t

from blob_pyro.propensity import (
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
)
from tests.propensity.correlated_problems import _problem
from tests.propensity.propensity_oracles import standard_errors


@pytest.mark.parametrize("method", ["orthants", "conditional", "quadrature"])
def test_ways_agree_where_several_apply(method):
    loc, factor, diagonal = _problem(6, 2, 0.5)
    reference = ArgmaxLowRankNormal(loc, factor, diagonal, method="orthants", num_points=4096, seed=5)
    other = ArgmaxLowRankNormal(loc, factor, diagonal, method=method, num_points=512)
    spread = (reference.error_estimate.square() + other.error_estimate.square()).sqrt()
    assert ((reference.probs - other.probs).abs() / spread.clamp_min(1e-7)).max() < 5


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


@pytest.mark.parametrize("method", ["exact", "orthants", "conditional", "quadrature", "envelope"])
def test_gradients(method):
    num_actions, noise = (3, 0.5) if method == "exact" else (4, 0.0 if method == "envelope" else 0.5)
    loc, factor, diagonal = _problem(num_actions, 2, noise)
    inputs = [loc.requires_grad_()] + ([] if method == "envelope" else [diagonal.requires_grad_()])

    def probs(loc, diagonal=diagonal):
        return ArgmaxLowRankNormal(loc, factor, diagonal, method=method, num_points=16, num_replicates=2).probs

    # The inner vectors of averages over shared normals are good to 1e-8, their differences accordingly.
    assert torch.autograd.gradcheck(probs, inputs, eps=1e-4, atol=2e-4)


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
