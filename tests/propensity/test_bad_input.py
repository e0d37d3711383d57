"""Every message names the argument, the offending index and the remedy."""

import math

import pytest
import torch
from torch.distributions import Categorical, MultivariateNormal, Normal

from blob_pyro.propensity import (
    Argmax,
    ArgmaxBeta,
    ArgmaxConditionallyNormal,
    ArgmaxLogNormal,
    ArgmaxLowRankNormal,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
    RankBeta,
    RankNormal,
)

ONES = torch.ones(2, 3)


def _with(index, value):
    changed = ONES.clone()
    changed[index] = value
    return changed


NAN, INF = math.nan, math.inf
CASES = {
    "nan location": (lambda: ArgmaxNormal(_with((1, 2), NAN), ONES), r"loc\[1, 2\] is nan.*must be finite.*Remove"),
    "nan scale": (lambda: ArgmaxNormal(ONES, _with((0, 1), NAN)), r"scale\[0, 1\] is nan.*at least 0"),
    "infinite scale": (lambda: ArgmaxNormal(ONES, _with((0, 0), INF)), r"scale\[0, 0\] is inf"),
    "negative scale": (
        lambda: ArgmaxLogNormal(ONES, _with((1, 0), -2.0)),
        r"ArgmaxLogNormal: scale\[1, 0\] is -2.*take the square root of a variance",
    ),
    "actions differ": (
        lambda: ArgmaxNormal(ONES, torch.ones(2, 4)),
        r"loc and scale have different numbers of actions.*'loc': \(2, 3\).*Expand",
    ),
    "batches differ": (lambda: ArgmaxNormal(ONES, torch.ones(5, 3)), r"do not broadcast.*Insert dimensions of size 1"),
    "no actions": (lambda: ArgmaxNormal(torch.ones(2, 0), torch.ones(2, 0)), r"loc has shape \(2, 0\).*no action"),
    "scalar": (lambda: ArgmaxNormal(torch.tensor(1.0), torch.tensor(1.0)), r"loc has shape \(\).*no action"),
    "integers": (lambda: ArgmaxNormal(torch.ones(3).long(), torch.ones(3)), r"loc must be a floating-point tensor"),
    "no tensor": (lambda: ArgmaxNormal([1.0], torch.ones(1)), r"loc must be a floating-point tensor, got list"),
    "zero concentration": (
        lambda: ArgmaxBeta(ONES, _with((0, 2), 0.0)),
        r"concentration0\[0, 2\] is 0.*greater than 0.*pseudo-counts",
    ),
    "nan concentration": (lambda: ArgmaxBeta(_with((1, 1), NAN), ONES), r"concentration1\[1, 1\] is nan"),
    "negative variance": (
        lambda: ArgmaxLowRankNormal(torch.ones(3), torch.ones(3, 1), torch.tensor([1.0, -1.0, 1.0])),
        r"cov_diag\[1\] is -1.*square a standard deviation",
    ),
    "factor shape": (
        lambda: ArgmaxLowRankNormal(torch.ones(3), torch.ones(2, 3), torch.ones(3)),
        r"cov_factor has shape \(2, 3\).*must be batch_shape x 3 x K",
    ),
    "nan factor": (
        lambda: ArgmaxLowRankNormal(torch.ones(3), torch.full((3, 1), NAN), torch.ones(3)),
        r"cov_factor\[0, 0\] is nan",
    ),
    "factor batch": (
        lambda: ArgmaxLowRankNormal(torch.ones(2, 3), torch.ones(5, 3, 1), torch.ones(3)),
        r"batch shapes of loc and cov_factor do not broadcast",
    ),
    "covariance shape": (
        lambda: ArgmaxMultivariateNormal(torch.ones(3), torch.eye(2)),
        r"covariance_matrix has shape \(2, 2\).*must be batch_shape x 3 x 3",
    ),
    "covariance asymmetric": (
        lambda: ArgmaxMultivariateNormal(torch.ones(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
        r"covariance_matrix\[0, 1\] is 0.5.*symmetric.*transpose",
    ),
    "covariance indefinite": (
        lambda: ArgmaxMultivariateNormal(torch.ones(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])),
        r"not positive semi-definite, its smallest eigenvalue is -1.*add 2 to the diagonal",
    ),
    "covariance indefinite in a batch": (
        lambda: ArgmaxMultivariateNormal(
            torch.ones(2), torch.stack([torch.eye(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])])
        ),
        r"covariance_matrix\[1\] is not positive semi-definite",
    ),
    "unknown method": (
        lambda: ArgmaxMultivariateNormal(torch.ones(2), torch.eye(2), method="magic"),
        r"method is 'magic', but must be None or one of independent",
    ),
    "exact for many": (
        lambda: ArgmaxMultivariateNormal(torch.ones(4), torch.eye(4), method="exact").probs,
        r"up to 3 actions, not 4",
    ),
    "quadrature over many factors": (
        lambda: ArgmaxLowRankNormal(torch.ones(8), torch.eye(8), torch.ones(8), method="quadrature").probs,
        r"grid of .* points for 7 factors",
    ),
    "one replicate": (
        lambda: ArgmaxMultivariateNormal(torch.ones(2), torch.eye(2), num_replicates=1),
        r"num_replicates is 1.*at least 2",
    ),
    "location shape": (
        lambda: ArgmaxConditionallyNormal(lambda z: z, torch.ones(3), 2),
        r"location maps draws of shape \(1, 2\) to \(1, 2\).*batch_shape x 1 x 3",
    ),
    "location not finite": (
        lambda: ArgmaxConditionallyNormal(lambda z: z / 0, torch.ones(2), 2),
        r"location is not finite at z = 0",
    ),
    "discrete base": (lambda: Argmax(Categorical(torch.ones(3, 4))), r"base is a discrete Categorical"),
    "multivariate base": (
        lambda: Argmax(MultivariateNormal(torch.zeros(3, 2), torch.eye(2))),
        r"event shape \(2,\).*no event dimensions",
    ),
    "scalar base": (lambda: Argmax(Normal(0.0, 1.0)), r"base has batch shape \(\).*Expand it over the actions"),
    "zero scale for ranks": (lambda: RankNormal(ONES, _with((0, 1), 0.0)), r"scale\[0, 1\] is 0.*greater than 0"),
    "too many ranks": (lambda: RankBeta(ONES, ONES, num_ranks=4), r"num_ranks is 4.*between 1 and .* 3"),
}


@pytest.mark.parametrize(("build", "message"), CASES.values(), ids=CASES)
def test_message(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("action", [-1, 3])
def test_actions_outside_the_support(action):
    with pytest.raises(ValueError, match="within the support"):
        ArgmaxNormal(torch.zeros(3), torch.ones(3)).log_prob(torch.tensor(action))


def test_unnormalised_densities_are_found_out():
    class Doubled(Normal):
        def log_prob(self, value):
            return super().log_prob(value) + math.log(2)

    with pytest.raises(ValueError, match=r"finds a mass of 2 for action 0 of row 0"):
        _ = Argmax(Doubled(torch.zeros(2), torch.ones(2))).probs


def test_checks_can_be_switched_off():
    d = ArgmaxNormal(torch.zeros(2), torch.tensor([1.0, math.nan]), validate_args=False)
    assert d.batch_shape == ()
