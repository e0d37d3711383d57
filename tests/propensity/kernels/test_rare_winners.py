"""Actions that win at few points or none: their probabilities are not 0, and their errors are errors."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr

from blob_pyro.propensity import ArgmaxLowRankNormal, ArgmaxMultivariateNormal
from blob_pyro.propensity.kernels.rare_winners import pairwise_bound, rare_winner_probs

double = torch.float64


def by_grid(loc, factor):
    """P(argmax) of loc + factor z for two factors: measures of the intervals of z_1 that are won, on a grid of z_2."""
    loc, factor = loc.numpy(), factor.numpy()
    height, step = np.linspace(-12.0, 12.0, 48_001, retstep=True)
    density = np.exp(-0.5 * height**2) / math.sqrt(2 * math.pi) * step
    found = []
    for i in range(len(loc)):
        low, high = np.full_like(height, -np.inf), np.full_like(height, np.inf)
        for j in range(len(loc)):
            if i == j:
                continue
            need, rise = loc[j] - loc[i] + (factor[j, 1] - factor[i, 1]) * height, factor[i, 0] - factor[j, 0]
            if rise == 0:
                high = np.where(need > 0, -np.inf, high)
            elif rise > 0:
                low = np.maximum(low, need / rise)
            else:
                high = np.minimum(high, need / rise)
        # In the smaller tail, where nothing cancels.
        flip = low > 0
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        found.append((density * np.clip(ndtr(high) - ndtr(low), 0, None)).sum())
    return torch.tensor(found, dtype=double)


def problem(seed, num_actions=6):
    generator = torch.Generator().manual_seed(seed)
    loc = 3 * torch.randn(num_actions, dtype=double, generator=generator)
    return loc, torch.randn(num_actions, 2, dtype=double, generator=generator)


CORNERS = torch.tensor([0.0, -4.0, 0.0, -9.0]).double(), torch.tensor([[0.0, 0], [1, 0], [0, 2], [1, 1]]).double()


def test_the_grid_is_right_where_one_knows():
    """z_1 > 4 + max(0, 2 z_2): beyond every point of a sample of 1,024."""
    probs = by_grid(torch.tensor([0.0, -4.0, 0.0]).double(), torch.tensor([[0.0, 0], [1, 0], [0, 2]]).double())
    expected, _ = quad(lambda x: math.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) * ndtr((x - 4) / 2), 4.0, 14.0)
    assert probs[1].item() == pytest.approx(expected, rel=1e-4)
    assert probs.sum().item() == pytest.approx(1, abs=1e-3)  # half a step of the grid, where lines are parallel


@pytest.mark.parametrize("seed", range(12))
def test_rare_actions_without_noise_of_their_own(seed):
    loc, factor = problem(seed)
    d = ArgmaxLowRankNormal(loc, factor, torch.zeros(6, dtype=double), num_points=64, num_replicates=8)
    assert d.method == "envelope"
    expected = by_grid(loc, factor)
    playable = expected > 1e-20
    assert (d.probs[playable] > 1e-30).all(), (d.probs, expected)
    assert ((d.probs - expected).abs() <= 6 * d.error_estimate + 1e-6 * expected + 1e-12).all(), (d.probs, expected)
    assert d.probs.sum().item() == pytest.approx(1, abs=1e-12)
    rare = playable & (expected < 1e-3)
    assert (d.error_estimate[rare] < 0.3 * expected[rare]).all(), (d.error_estimate, expected)


def test_there_are_rare_ones_among_them():
    rare = [((p > 1e-20) & (p < 1e-3)).sum().item() for p in (by_grid(*problem(seed)) for seed in range(12))]
    assert sum(rare) >= 8, rare


def test_the_same_by_a_covariance():
    loc, factor = CORNERS
    d = ArgmaxMultivariateNormal(loc, factor @ factor.T, method="envelope", num_points=128, num_replicates=8)
    expected = by_grid(loc, factor)
    assert abs(d.probs[1] - expected[1]) < 5 * d.error_estimate[1] < 0.1 * expected[1]


def test_batches_have_each_their_own():
    problems = [problem(seed) for seed in range(5)]
    loc, factor = (torch.stack(parts) for parts in zip(*problems))
    together = ArgmaxLowRankNormal(loc, factor, torch.zeros(6, dtype=double), num_points=64, num_replicates=8)
    for row, (own, own_factor) in enumerate(problems):
        alone = ArgmaxLowRankNormal(own, own_factor, torch.zeros(6, dtype=double), num_points=64, num_replicates=8)
        error = together.error_estimate[row] + alone.error_estimate
        assert ((together.probs[row] - alone.probs).abs() <= 6 * error + 1e-12).all()


def test_gradients_are_those_of_the_probability():
    loc, factor = CORNERS

    def probability(shift):
        d = ArgmaxLowRankNormal(loc + shift, factor, torch.zeros(4, dtype=double), num_points=256, num_replicates=8)
        return d.probs[1]

    shift = torch.zeros(4, dtype=double, requires_grad=True)
    (gradient,) = torch.autograd.grad(probability(shift), shift)
    unit = torch.eye(4, dtype=double) * 1e-3
    slope = [(by_grid(loc + u, factor)[1] - by_grid(loc - u, factor)[1]).item() / 2e-3 for u in unit]
    assert gradient.tolist() == pytest.approx(slope, rel=0.1, abs=1e-7)


def test_the_bound_by_pairs_is_one():
    for seed in range(12):
        loc, factor = problem(seed)
        assert (by_grid(loc, factor) <= pairwise_bound(loc, factor) * (1 + 1e-6)).all()
    copies = pairwise_bound(torch.zeros(3).double(), torch.ones(3, 2).double())
    assert copies.tolist() == [1.0, 1.0, 1.0]


def test_an_action_that_never_wins_has_none():
    """Its line is below the mean of two others, everywhere."""
    loc, factor = torch.tensor([0.0, 0.0, -1.0]).double(), torch.tensor([[1.0, 0], [-1, 0], [0, 0]]).double()
    draws = torch.randn(4, 16, 1, dtype=double, generator=torch.Generator().manual_seed(0))
    assert rare_winner_probs(loc[None], factor[None], torch.tensor([2]), draws).tolist() == [[0.0]] * 4


@pytest.mark.parametrize("z", [-8.0, -12.0, -30.0])
@pytest.mark.parametrize("num_actions", [2, 4])
def test_tails_are_not_rounded_to_nothing(z, num_actions):
    """One factor, no noise: the second action wins where z_1 > -z; the others never do."""
    loc = torch.tensor([0.0, z, -1e3, -1e3]).double()[:num_actions]
    factor = torch.tensor([0.0, 1.0, 0.0, 0.0]).double()[:num_actions, None]
    d = ArgmaxLowRankNormal(loc, factor, torch.zeros(num_actions, dtype=double))
    assert d.probs[1].item() == pytest.approx(math.erfc(-z / math.sqrt(2)) / 2, rel=1e-6)


def test_what_no_point_shows_has_an_error():
    """Almost no noise of their own: action 1 wins where z_1 > 4 + max(0, 2 z_2), and no point of 128 is there."""
    num_actions = 30
    loc, factor = torch.full((num_actions,), -1e4).double(), torch.zeros(num_actions, 2).double()
    loc[:3], factor[:3] = CORNERS[0][:3], CORNERS[1][:3]
    diagonal = torch.full((num_actions,), 1e-10).double()
    d = ArgmaxLowRankNormal(loc, factor, diagonal, method="conditional", num_points=16, num_replicates=8)
    expected = by_grid(loc[:3], factor[:3])[1]
    assert d.probs[1] < 1e-12
    assert expected < d.error_estimate[1] <= 3 / 128
    assert (d.error_estimate[3:] < 1e-7).all()  # hopeless, and known to be
