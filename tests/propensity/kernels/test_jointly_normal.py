"""The way that suits some scores, and the same scores seen otherwise."""

import pytest
import torch

from blob_pyro.propensity.kernels.jointly_normal import JointlyNormal, choose_method


def scores(num_actions, rank, diagonal, seed=0):
    source = torch.Generator().manual_seed(seed)
    loc = torch.randn(1, num_actions, generator=source, dtype=torch.float64)
    factor = torch.randn(1, num_actions, rank, generator=source, dtype=torch.float64)
    return JointlyNormal(loc, factor, torch.full((1, num_actions), diagonal, dtype=torch.float64))


@pytest.mark.parametrize(
    ("problem", "method"),
    [
        (scores(6, 0, 1.0), "independent"),
        (scores(3, 2, 1.0), "exact"),
        (scores(8, 1, 0.0), "envelope"),
        (scores(8, 1, 1.0), "quadrature"),
        (scores(8, 6, 0.05), "orthants"),
        (scores(128, 8, 1.0), "orthants"),
        (scores(129, 8, 1.0), "conditional"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_way_that_suits(problem, method):
    assert choose_method(problem) == method


def test_covariance_and_deviation_by_hand():
    problem = scores(4, 2, 0.3)
    expected = problem.factor @ problem.factor.mT + 0.3 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(problem.covariance, expected)
    torch.testing.assert_close(problem.deviation, expected.diagonal(dim1=-2, dim2=-1).sqrt())


def test_rotations_keep_the_covariances_of_differences():
    problem = scores(5, 3, 0.2)

    def of_differences(s):
        c = s.covariance
        d = c.diagonal(dim1=-2, dim2=-1)
        return d.unsqueeze(-1) + d.unsqueeze(-2) - 2 * c

    torch.testing.assert_close(of_differences(problem.rotated()), of_differences(problem))
