"""Low-rank covariances against Monte Carlo that the library has no part in."""

import pytest

from blob_pyro.propensity import (
    ArgmaxLowRankNormal,
)
from tests.propensity.correlated_problems import DRAWS, _frequencies, _problem

LOW_RANK_CASES = {
    "quadrature, one factor": (6, 1, 0.3, "quadrature"),
    "quadrature, two factors": (6, 2, 0.5, "quadrature"),
    "orthants": (8, 4, 0.05, "orthants"),
    "orthants, thirty actions": (30, 5, 0.5, "orthants"),
    "orthants, small factors": (40, 20, 4.0, "orthants"),
    "conditional": (130, 5, 0.5, "conditional"),
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
