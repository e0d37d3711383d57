"""Any finite parameters give the right probabilities, or an error that says why not; never other numbers.

The oracles share nothing with the quadratures: with two actions a propensity is one normal distribution function, and
with more it lies between bounds by pairs (Bonferroni's and the smallest), which meet where scores are far apart.
Propensities do not depend on the unit or the order of the actions, copies share, and ranks begin with the best.
"""

import math

import mpmath
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch.distributions import Normal

from blob_pyro.propensity import (
    Argmax,
    ArgmaxConditionallyNormal,
    ArgmaxLogNormal,
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
    RankNormal,
    interpolated_argmax_normal_probs,
)
from tests.fuzzing import fuzz
from tests.propensity.extremes import probabilities

RANGES = {torch.float32: (-44.0, 38.0), torch.float64: (-306.0, 307.0)}


@st.composite
def parameters(draw, dtypes=(torch.float32, torch.float64), zero=True, most=6):
    """Locations and scales from the whole range of a dtype, log-uniform; some close to others, some the same."""
    dtype = draw(st.sampled_from(dtypes))
    low, high = RANGES[dtype]
    magnitude = st.floats(low, high).map(lambda x: 10.0**x)
    if draw(st.booleans()):  # of about one size
        middle = draw(st.floats(low + 6, high - 6))
        magnitude = st.floats(middle - 5, middle + 5).map(lambda x: 10.0**x)
    count = draw(st.integers(1, most))
    sizes = draw(st.lists(st.one_of(magnitude, st.just(0.0)) if zero else magnitude, min_size=1, max_size=count))
    scale = [draw(st.sampled_from(sizes)) for _ in range(count)]
    anchors = draw(st.lists(st.one_of(st.just(0.0), magnitude, magnitude.map(lambda x: -x)), min_size=1, max_size=3))
    loc = [draw(st.sampled_from(anchors)) + draw(st.floats(-6, 6)) * draw(st.sampled_from(sizes)) for _ in range(count)]
    largest = torch.finfo(dtype).max
    loc = torch.tensor(loc, dtype=torch.float64).nan_to_num(posinf=largest, neginf=-largest).clamp(-largest, largest)
    scale = torch.tensor(scale, dtype=torch.float64).clamp(max=largest)
    if dtype == torch.float32 and not zero:
        scale = scale.clamp(min=2e-45)
    return loc.to(dtype), scale.to(dtype)


def standardised(gap, variance):
    """gap / root of the variance, of Python floats of any size."""
    with mpmath.workdps(30):
        return (
            float(max(-1e6, min(1e6, gap / mpmath.sqrt(variance))))
            if variance
            else math.copysign(1e6, gap) * (gap != 0)
        )


def check_against_pairs(probs, loc, covariance, tolerance):
    """``covariance(i, j)``: the variance of the difference of two scores, exactly."""
    actions = range(len(loc))
    exact = [mpmath.mpf(x) for x in loc.double().tolist()]
    with mpmath.workdps(700):
        z = [[standardised(exact[i] - exact[j], covariance(i, j)) if i != j else 0.0 for j in actions] for i in actions]
    wins = torch.special.ndtr(torch.tensor(z, dtype=torch.float64))
    for i in actions:
        pairs = [wins[i, j].item() for j in actions if j != i]
        # Of sure ties each has a share.
        ties = sum(z[i][j] == 0.0 and covariance(i, j) == 0 for j in actions if j != i)
        upper = min(pairs, default=1.0) if not ties else 1 / (1 + ties)
        lower = 1 - sum(1 - p for p in pairs) if not ties else 0.0
        assert lower - tolerance <= probs[i].item() <= upper + tolerance, (i, lower, probs[i].item(), upper)


def independent(scale):
    exact = [mpmath.mpf(x) for x in scale.double().tolist()]
    return lambda i, j: exact[i] ** 2 + exact[j] ** 2


def tolerance(dtype):
    return 2e-6 if dtype == torch.float32 else 1e-11


def far_apart(values):
    """Whether float64 parameters are so different that a refusal is right."""
    positive = values.detach()[values > 0].double().log10()
    return len(positive) > 1 and positive.max() - positive.min() > 130


@fuzz(case=parameters(), ordinary=80)
def test_independent_normals(case):
    loc, scale = case
    loc, scale = loc.requires_grad_(), scale.requires_grad_()
    probs = (
        ArgmaxNormal(loc, scale).probs
        if loc.dtype == torch.float32
        else probabilities(lambda: ArgmaxNormal(loc, scale))
    )
    if probs is None:
        assert far_apart(scale)
        return
    check_against_pairs(probs, loc.detach(), independent(scale.detach()), tolerance(loc.dtype))
    order = torch.arange(len(loc)).flip(0)
    torch.testing.assert_close(
        ArgmaxNormal(loc[order], scale[order]).probs, probs[order], rtol=0, atol=tolerance(loc.dtype)
    )
    gradients = torch.autograd.grad(probs[0], (loc, scale))
    assert all(g.isfinite().all() for g in gradients)


@fuzz(case=parameters(), power=st.integers(-1000, 1000), ordinary=80)
def test_the_unit_does_not_matter(case, power):
    loc, scale = (x.double() for x in case)
    unit = 2.0**power
    positive = torch.cat([loc.abs(), scale])
    positive = positive[positive > 0]
    if len(positive) and not 1e-290 < positive.min() * unit <= positive.max() * unit < 1e300:
        return
    before, after = (probabilities(lambda u=u: ArgmaxLogNormal(loc * u, scale * u, minimum=True)) for u in (1.0, unit))
    assert (before is None) == (after is None)
    if before is not None:
        torch.testing.assert_close(before, after, rtol=0, atol=1e-13)


@fuzz(case=parameters(zero=False, most=4), ordinary=60)
def test_ranks_of_normals(case):
    loc, scale = case
    num_ranks = len(loc)

    def build():
        return RankNormal(loc, scale, num_ranks=num_ranks)

    probs = build().probs if loc.dtype == torch.float32 else probabilities(build)
    best, worst = (probabilities(lambda m=m: ArgmaxNormal(loc, scale, minimum=m)) for m in (False, True))
    if probs is None or best is None or worst is None:
        assert far_apart(torch.cat([loc.abs(), scale]))
        return
    torch.testing.assert_close(probs[:, 0], best, rtol=0, atol=10 * tolerance(loc.dtype))
    torch.testing.assert_close(probs[:, -1], worst, rtol=0, atol=10 * tolerance(loc.dtype))


@st.composite
def factors(draw, dtypes=(torch.float32, torch.float64)):
    """Locations, factors and variances of a few scores, of any scale, whose squares are numbers too."""
    loc, scale = draw(parameters(dtypes))
    dtype = scale.dtype
    low, high = (-22.0, 18.0) if dtype == torch.float32 else (-140.0, 140.0)
    unit = 10.0 ** draw(st.floats(low + 8, high - 3))
    scale = (scale.double() / scale.double().max().clamp(min=1e-300)).clamp(min=1e-12) * unit
    spread = draw(st.lists(st.integers(-4, 4), min_size=2 * len(loc), max_size=2 * len(loc)))
    share = draw(st.sampled_from([0.0, 1e-6, 0.3, 1.0]))
    loc = torch.tensor(draw(st.lists(st.integers(-3, 3), min_size=len(loc), max_size=len(loc)))) * scale
    factor = torch.tensor(spread, dtype=torch.float64).reshape(-1, 2) / 4 * scale[:, None]
    return loc.to(dtype), factor.to(dtype), (share * scale**2).to(dtype)


def check_estimate(distribution, loc, difference):
    d = distribution()
    probs = probabilities(lambda: d)
    if probs is None:
        return False
    # What happens in a few points or none has no error estimate.
    error = 10 * d.error_estimate.double().max().item() + 10 / (d.num_points * d.num_replicates)
    check_against_pairs(probs, loc, difference, error if d.error_estimate.max() > 1e-6 else 1e-5)
    return True


@fuzz(case=factors(), ordinary=80)
def test_low_rank_normals(case):
    loc, factor, diagonal = case
    rows = [[mpmath.mpf(x) for x in row] for row in factor.double().tolist()]
    own = [mpmath.mpf(x) for x in diagonal.double().tolist()]

    def difference(i, j):
        return sum((a - b) ** 2 for a, b in zip(rows[i], rows[j])) + own[i] + own[j]

    answered = check_estimate(
        lambda: ArgmaxLowRankNormal(loc, factor, diagonal, num_points=128, num_replicates=8), loc, difference
    )
    assert answered


@fuzz(case=factors(), ordinary=80)
def test_correlated_normals(case):
    loc, factor, diagonal = case
    covariance = factor.double() @ factor.double().T + torch.diag(
        diagonal.double() + 1e-3 * factor.double().square().sum(-1)
    )
    covariance = covariance.to(loc.dtype)
    # A variance that is no normal number has been rounded by up to all of itself: beside a larger one the matrix may be
    # no covariance any more (correlations of 1.2 have been seen), and there is no right answer to compare with.
    variance, limits = covariance.diagonal(), torch.finfo(loc.dtype)
    assume(bool(((variance == 0) | (variance >= limits.smallest_normal / limits.eps)).all()))
    entries = [[mpmath.mpf(x) for x in row] for row in covariance.double().tolist()]

    def difference(i, j):
        return entries[i][i] + entries[j][j] - 2 * entries[i][j]

    check_estimate(lambda: ArgmaxMultivariateNormal(loc, covariance, num_points=256, num_replicates=8), loc, difference)


def test_a_covariance_below_the_smallest_normal_number_may_be_rounded():
    covariance = torch.tensor([[0.0, 1.4013e-45], [1.4013e-45, 2.8026e-45]])
    probs = ArgmaxMultivariateNormal(torch.zeros(2), covariance, num_points=256, num_replicates=8).probs
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0))
    with pytest.raises(ValueError, match="not positive semi-definite"):
        ArgmaxMultivariateNormal(torch.zeros(2), torch.tensor([[0.0, 1e-30], [1e-30, 2e-30]]))


@fuzz(case=parameters((torch.float64,), most=4), ordinary=80)
def test_conditional_normals_without_anything_shared(case):
    loc, scale = case
    exact = probabilities(lambda: ArgmaxNormal(loc, scale))

    def build():
        return ArgmaxConditionallyNormal(lambda z: loc.expand(len(z), -1), scale, 0, num_points=1, num_replicates=2)

    probs = probabilities(build)
    assert (probs is None) == (exact is None)
    if probs is not None:
        torch.testing.assert_close(probs, exact, rtol=0, atol=1e-7)


@fuzz(case=parameters((torch.float64,), zero=False, most=4), ordinary=50)
def test_any_density(case):
    loc, scale = case
    exact, probs = (probabilities(lambda f=f: f(loc, scale)) for f in (ArgmaxNormal, lambda *p: Argmax(Normal(*p))))
    if probs is not None and exact is not None:
        torch.testing.assert_close(probs, exact, rtol=0, atol=2e-6)


@fuzz(case=parameters((torch.float64,), most=6), ordinary=80)
def test_interpolation(case):
    loc, scale = case
    exact, probs = (probabilities(lambda f=f: f(loc, scale)) for f in (ArgmaxNormal, Interpolated))
    if probs is not None and exact is not None:
        torch.testing.assert_close(probs, exact, rtol=0, atol=1e-11)


class Interpolated:
    def __init__(self, loc, scale):
        self.probs = interpolated_argmax_normal_probs(loc, scale)
