"""From one posterior to the next prior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from blob_pyro.distributions import ArrowheadNormal, MatrixNormal, MultivariatePart
from blob_pyro.models import BanditModel, BanditPriors, VectorPrior
from blob_pyro.ops.tensors import map_tensors

__all__ = ["next_priors"]


def next_priors(model: BanditModel, posterior: dict[str, TorchDistribution], forgetting: float = 1.0) -> BanditPriors:
    r"""The model's priors with the posterior in their place: site by site, or one vector where it correlates them.

    ``p_new(theta) \propto q(theta)^forgetting``: for a Gaussian, the covariance divided by ``forgetting``.

    Args:
        model: whose priors they were.
        posterior: of each site: independent normals, matrix normals, or parts of one Gaussian vector.
        forgetting: in (0, 1].

    Raises:
        ValueError: for ``forgetting`` outside (0, 1], or a site whose posterior is of another family, naming it.
    """
    if not 0 < forgetting <= 1:
        raise ValueError(f"forgetting: must lie in (0, 1], got {forgetting}")
    memo: dict[int, TorchDistribution] = {}  # copies: a guide that goes on from here must not move its own prior
    laws = {name: map_tensors(posterior[name], torch.clone, memo) for name in model.site_priors()}
    parts = sorted((p for p in laws.items() if isinstance(p[1], MultivariatePart)), key=lambda item: item[1].start)
    if parts and len(parts) == len(laws) and len({id(part.joint) for _, part in parts}) == 1:
        law = _tempered_vector(parts[0][1].joint, forgetting**-0.5)
        vector = VectorPrior(law, {name: tuple(part.part_shape) for name, part in parts})
        return replace(model.priors, sites={}, vector=vector)
    sites = {name: _tempered(name, law, forgetting**-0.5) for name, law in laws.items()}
    return replace(model.priors, sites=sites)


def _tempered_vector(law: Any, widening: float) -> TorchDistribution:
    """A Gaussian vector with its standard deviations multiplied, and its correlations kept."""
    if isinstance(law, ArrowheadNormal):
        return ArrowheadNormal(law.loc, widening * law.shared_scale_tril, widening * law.loading, widening * law.scale)
    if isinstance(law, dist.LowRankMultivariateNormal):
        return dist.LowRankMultivariateNormal(law.loc, widening * law.cov_factor, widening**2 * law.cov_diag)
    if isinstance(law, dist.MultivariateNormal):
        return dist.MultivariateNormal(law.loc, scale_tril=widening * law.scale_tril)
    raise ValueError(
        f"update: the posterior is one {type(law).__name__} over all sites, and the next prior must be an "
        "ArrowheadNormal, MultivariateNormal or LowRankMultivariateNormal; use one of these, or fit all events again"
    )


def _tempered(name: str, posterior: TorchDistribution, widening: float) -> TorchDistribution:
    if isinstance(posterior, MatrixNormal):
        return MatrixNormal(posterior.loc, widening * posterior.row_scale_tril, posterior.column_scale_tril)
    base: Any = posterior.base_dist if isinstance(posterior, dist.Independent) else posterior
    if isinstance(base, dist.Normal):
        normal = dist.Normal(base.loc, widening * base.scale)
        return normal.to_event(posterior.event_dim) if posterior.event_dim else normal
    raise ValueError(
        f"update: the posterior of {name!r} is {type(posterior).__name__}, and the next prior must be Gaussian; use "
        "guide 'normal', 'matrix_normal', 'matrix_normal_full', 'low_rank', 'full' or 'laplace', or fit all events "
        "again"
    )
