"""Gaussian vectors."""

import pyro.distributions as dist
import torch

from blob_pyro.distributions import ArrowheadNormal

S, M = 3, 4


def arrowhead(batch=()):
    tril = torch.randn(*batch, S, S).double().tril(-1) + torch.tensor([0.2, 1.0, 3.0]).double().diag()
    loading = torch.randn(*batch, M, S).double()
    return ArrowheadNormal(
        torch.randn(*batch, S + M).double(), tril, loading, torch.tensor([0.1, 0.5, 1.0, 4.0]).double()
    )


def vectors():
    d = arrowhead()
    low_rank = dist.LowRankMultivariateNormal(d.loc, torch.randn(S + M, 2).double(), torch.rand(S + M).double() + 0.1)
    return {"arrowhead": d, "full": dist.MultivariateNormal(d.loc, d.covariance_matrix), "low rank": low_rank}
