"""A finite mixture over shared points: against mpmath point by point, its own draws, and what it tends to."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import norm

from blob_pyro.propensity import ArgmaxConditionallyNormal, ArgmaxNormal, ArgmaxNormalMixture
from blob_pyro.propensity.kernels.qmc import normal_replicates
from tests.propensity.propensity_oracles import double, standard_errors

LOC, SCALE = double(0.0, 1.0, -0.5, 0.8), double(2.0, 0.3, 1.0, 0.05)
LOADING = torch.stack([double(1.0, -1.0, 0.5, 2.0), double(0.0, 0.7, -3.0, 0.1)])
POINTS = torch.stack([double(-1.0, 0.2), double(0.4, 1.3), double(2.0, -0.9)])


def location(points):
    return LOC + points @ LOADING


def prob_by_scipy(loc, scale, action):
    """The integral of the action's density times the others' distribution functions, between all their bends."""
    bends = sorted({m + k * s for m, s in zip(loc, scale) for k in (-9, -4, -2, 0, 2, 4, 9)})

    def integrand(y):
        z = (y - np.array(loc)) / np.array(scale)
        return norm.pdf(z[action]) / scale[action] * np.prod(np.delete(ndtr(z), action))

    return sum(quad(integrand, a, b, epsabs=0, epsrel=1e-13)[0] for a, b in itertools.pairwise(bends))


def test_the_average_of_exact_quadratures():
    d = ArgmaxNormalMixture(location, SCALE, POINTS)
    for action in range(4):
        exact = sum(prob_by_scipy(location(z).tolist(), SCALE.tolist(), action) for z in POINTS) / 3
        assert d.log_prob(torch.tensor(action)).item() == pytest.approx(math.log(exact), abs=1e-12)
    assert d.probs.sum().item() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("minimum", [False, True], ids=["largest", "smallest"])
def test_frequencies_of_its_own_draws(minimum):
    d = ArgmaxNormalMixture(location, SCALE, POINTS, minimum=minimum)
    drawn = d.sample((100_000,))
    frequency = torch.bincount(drawn, minlength=4) / 100_000
    assert standard_errors(d.probs, frequency, 100_000) < 4.5


def test_each_context_draws_a_point_of_its_own():
    """Two contexts, deterministic scores: were the point shared, they would always agree."""
    shift = double(0.0, 0.0)
    d = ArgmaxNormalMixture(
        lambda z: shift[:, None, None] + torch.cat([z, -z], -1), torch.zeros(2, 2).double(), double(-1.0, 1.0)[:, None]
    )
    drawn = d.sample((400,))
    assert 120 < (drawn[:, 0] == drawn[:, 1]).sum() < 280


def test_many_points_tend_to_the_expectation():
    points = normal_replicates(1, 4096, 2, 3, torch.device("cpu"))[0]
    many = ArgmaxNormalMixture(location, SCALE, points)
    whole = ArgmaxConditionallyNormal(location, SCALE, 2, num_points=1024, num_replicates=16)
    assert ((many.probs - whole.probs).abs() < 6 * whole.error_estimate + 1e-4).all()
    few = ArgmaxNormalMixture(location, SCALE, points[:4])
    assert (few.probs - whole.probs).abs().sum() > 20 * (many.probs - whole.probs).abs().sum()


def test_gradients():
    loc = LOC.clone().requires_grad_()

    def log_prob(loc, scale):
        d = ArgmaxNormalMixture(lambda z: loc + z @ LOADING, scale, POINTS)
        return d.log_prob(torch.tensor([0, 3, 1]))

    assert torch.autograd.gradcheck(log_prob, (loc, SCALE.clone().requires_grad_()))


def test_an_impossible_action_has_no_gradient_and_no_nan():
    loc = double(0.0, -1e6).requires_grad_()
    d = ArgmaxNormalMixture(lambda z: loc + 0 * z[..., :1], double(1.0, 1.0), POINTS)
    assert d.log_probs.tolist() == [pytest.approx(0, abs=1e-14), -torch.inf]
    (gradient,) = torch.autograd.grad(d.probs.sum(), loc)
    assert gradient.isfinite().all()


def test_one_point_is_independent_normals():
    d = ArgmaxNormalMixture(location, SCALE, POINTS[:1])
    torch.testing.assert_close(d.probs, ArgmaxNormal(location(POINTS[0]), SCALE).probs, rtol=0, atol=1e-14)


BAD = {
    "no points": (lambda: ArgmaxNormalMixture(location, SCALE, POINTS[:0]), "points has shape"),
    "a vector": (lambda: ArgmaxNormalMixture(location, SCALE, POINTS[0]), "points has shape"),
    "NaN": (lambda: ArgmaxNormalMixture(location, SCALE, POINTS * torch.nan), "points must be finite"),
    "negative": (lambda: ArgmaxNormalMixture(location, -SCALE, POINTS), r"scale\[0\] is -2"),
    "no function": (lambda: ArgmaxNormalMixture(LOC, SCALE, POINTS), "location must be a function"),
    "wrong shape": (lambda: ArgmaxNormalMixture(lambda z: LOC, SCALE, POINTS), "location maps points"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
