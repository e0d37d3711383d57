"""From one posterior to the next prior."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from blob_pyro.distributions import ArrowheadNormal, MatrixNormal, MultivariatePart
from blob_pyro.models import BanditModel, BanditPriors, VectorPrior
from blob_pyro.ops.tensors import map_tensors

__all__ = ["next_priors", "widened"]


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
    distributions = {name: map_tensors(posterior[name], torch.clone, memo) for name in model.site_priors()}
    parts = sorted(
        (p for p in distributions.items() if isinstance(p[1], MultivariatePart)), key=lambda item: item[1].start
    )
    if parts and len(parts) == len(distributions) and len({id(part.multivariate) for _, part in parts}) == 1:
        distribution = _widened("all sites together", parts[0][1].multivariate, forgetting**-0.5)
        vector = VectorPrior(distribution, {name: tuple(part.part_shape) for name, part in parts})
        return replace(model.priors, sites={}, vector=vector)
    sites = {name: _widened(repr(name), distribution, forgetting**-0.5) for name, distribution in distributions.items()}
    return replace(model.priors, sites=sites)


def _widened(what: str, posterior: TorchDistribution, factor: float) -> TorchDistribution:
    found = widened(posterior, factor)
    if found is None:
        raise ValueError(
            f"update: the posterior of {what} is {type(posterior).__name__}, and the next prior must be Gaussian; use "
            "a guide whose sites are Gaussian, such as 'normal' or 'laplace', or fit all events again"
        )
    return found


@singledispatch
def widened(posterior: TorchDistribution, factor: float) -> TorchDistribution | None:
    """A Gaussian with its standard deviations multiplied, and its mean and correlations kept.

    It is dispatched on the family: register yours with ``widened.register(YourDistribution)``.

    Args:
        posterior: of a site, or of a vector that sites are parts of.
        factor: at least 1.

    Returns:
        A distribution of the same family; None where it is not known to be Gaussian.
    """
    return None


@widened.register
def _(posterior: dist.Normal, factor: float) -> TorchDistribution:
    return dist.Normal(posterior.loc, factor * posterior.scale)


@widened.register
def _(posterior: dist.Independent, factor: float) -> TorchDistribution | None:
    base = widened(posterior.base_dist, factor)
    return None if base is None else base.to_event(posterior.reinterpreted_batch_ndims)


@widened.register
def _(posterior: MatrixNormal, factor: float) -> TorchDistribution:
    return MatrixNormal(posterior.loc, factor * posterior.row_scale_tril, posterior.column_scale_tril)


@widened.register
def _(posterior: ArrowheadNormal, factor: float) -> TorchDistribution:
    own = posterior
    return ArrowheadNormal(own.loc, factor * own.shared_scale_tril, factor * own.loading, factor * own.scale)


@widened.register
def _(posterior: dist.LowRankMultivariateNormal, factor: float) -> TorchDistribution:
    return dist.LowRankMultivariateNormal(posterior.loc, factor * posterior.cov_factor, factor**2 * posterior.cov_diag)


@widened.register
def _(posterior: dist.MultivariateNormal, factor: float) -> TorchDistribution:
    return dist.MultivariateNormal(posterior.loc, scale_tril=factor * posterior.scale_tril)
