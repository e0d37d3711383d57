"""Classes that models are made of beside terms and bounds, which register themselves: one line for each."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist

from blob_pyro.distributions import (
    ArrowheadNormal,
    BlockArrowheadNormal,
    MatrixNormal,
    NestedNormal,
    TabulatedDensity,
)
from blob_pyro.models import OrganicPriors
from blob_pyro.models.priors.bandit_priors import BanditPriors
from blob_pyro.models.priors.learned import Learned
from blob_pyro.models.priors.vector import VectorPrior
from blob_pyro.serialization.codec import register

__all__: list[str] = []

register(BanditPriors, added=["scales", "initial", "positions"])
register(Learned, added=["rate"])
register(OrganicPriors)
register(VectorPrior, keys={"distribution": "law"})
register(ArrowheadNormal)
register(BlockArrowheadNormal, fields=["loc", "shared_scale_tril", "loading", "own_scale_tril", "widths"])
register(MatrixNormal)
register(TabulatedDensity)
register(
    NestedNormal,
    fields=["index", "density", "loc", "shared_scale_tril", "stretch", "slope", "own_scale", "widths"],
)


def _independent(base_dist: Any, reinterpreted_batch_ndims: int) -> Any:
    return base_dist.to_event(reinterpreted_batch_ndims)


register(dist.Independent, fields=["base_dist", "reinterpreted_batch_ndims"], make=_independent)
register(dist.MultivariateNormal, fields=["loc", "scale_tril"])  # it takes one of three
register(dist.Uniform, fields=["low", "high"])
register(dist.MultivariateStudentT, fields=["df", "loc", "scale_tril"])
for _distribution in (
    dist.AsymmetricLaplace, dist.Beta, dist.Cauchy, dist.Chi2, dist.Exponential, dist.Gamma, dist.Gumbel,
    dist.HalfCauchy, dist.HalfNormal, dist.InverseGamma, dist.Laplace, dist.LogNormal, dist.Logistic,
    dist.LowRankMultivariateNormal, dist.Normal, dist.Pareto, dist.SkewLogistic, dist.SoftAsymmetricLaplace,
    dist.SoftLaplace, dist.StudentT, dist.Weibull,
):  # fmt: skip
    register(_distribution)
