"""Evidence of kappa's scale where everything is Gaussian, against the density of the data under each scale."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal
from blob_pyro.infer.laplace.arrowhead_precision import ArrowheadPrecision
from blob_pyro.infer.laplace.block_arrowhead_precision import BlockArrowheadPrecision
from blob_pyro.infer.laplace.scale_evidence import ScaleEvidence

ITEMS, SHARED, EACH = 4, 2, 3


@pytest.mark.parametrize("width", [1, 2], ids=["kappas", "kappas and betas"])
def test_it_is_that_of_the_data(width):
    """Numbers that are seen with noise: each a sum of one item's numbers and of what items share."""
    torch.manual_seed(width)
    own, size = ITEMS * width, SHARED + ITEMS * width
    design = torch.zeros(ITEMS * EACH, size).double()
    item = torch.arange(len(design)) % ITEMS
    design[:, :SHARED] = torch.randn(len(design), SHARED).double()
    for array in range(width):  # kappas are last
        design[torch.arange(len(design)), SHARED + array * ITEMS + item] = torch.randn(len(design)).double()
    kappa, center = slice(size - ITEMS, size), torch.linspace(-0.5, 1.0, ITEMS).double()
    loc, data = torch.zeros(size).double(), torch.randn(len(design)).double()
    loc[kappa] = center

    def prior(scale):
        variance = torch.ones(size).double()
        variance[kappa] = scale**2
        return variance

    def evidence(scale):
        noise = torch.eye(len(design)).double()
        return MultivariateNormal(design @ loc, noise + design * prior(scale) @ design.mT).log_prob(data)

    scale = 0.4
    precision = design.mT @ design + prior(scale).reciprocal().diag()
    mean = torch.linalg.solve(precision, design.mT @ data + loc / prior(scale))
    shared, cross, rest = precision[:SHARED, :SHARED], precision[SHARED:, :SHARED], precision[SHARED:, SHARED:]
    if width == 1:
        gaussian = ArrowheadPrecision(shared, cross, rest.diagonal()).normal(mean)
        assert isinstance(gaussian, ArrowheadNormal)
    else:
        place = torch.arange(own).view(width, ITEMS).mT  # of each item's numbers
        blocks = rest[place.unsqueeze(-1), place.unsqueeze(-2)]
        gaussian = BlockArrowheadPrecision(shared, cross[place], blocks, (1,) * width).normal(mean)
        assert isinstance(gaussian, BlockArrowheadNormal)
    assert torch.allclose(gaussian.covariance_matrix, torch.linalg.inv(precision))
    found = ScaleEvidence(gaussian, kappa, center, scale)
    for other in (0.02, 0.4, 0.7, 3.0):
        assert found.at(other) == pytest.approx(float(evidence(other) - evidence(scale)), abs=1e-9)


def test_there_is_none_where_the_posterior_is_wider_than_the_prior():
    none, own = torch.zeros(3).double(), torch.ones(2).double()
    wide = ArrowheadNormal(none, torch.eye(1).double(), none[1:].view(2, 1), own)
    assert ScaleEvidence(wide, slice(1, 3), none[1:], 0.5).at(2.0) == -math.inf
    shared = ArrowheadNormal(none, torch.eye(1).double(), own.view(2, 1), 0.1 * own)
    assert ScaleEvidence(shared, slice(1, 3), none[1:], 0.5).at(2.0) == -math.inf
