"""Locations that are no linear functions of what is shared."""

import torch

from blob_pyro.propensity import (
    ArgmaxConditionallyNormal,
)
from tests.propensity.correlated_problems import DRAWS
from tests.propensity.propensity_oracles import double, standard_errors


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
