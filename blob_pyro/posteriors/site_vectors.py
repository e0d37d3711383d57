"""Scalar and vector sites of a Gaussian posterior, by location, own noise, and loadings on a shared vector."""

from __future__ import annotations

from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.distributions import BlockArrowheadNormal
from blob_pyro.distributions.multivariate import Factors, MultivariatePart, factors
from blob_pyro.models.sites import BETA_DEVIATION, KAPPA

__all__ = ["SiteVector", "has_own_noise", "is_certain", "num_shared_factors", "shared_factors", "site_vector"]


class SiteVector(NamedTuple):
    """A scalar or vector site, ``loc + scale e + z' factor``, with a factor ``R x shape``."""

    loc: Tensor
    scale: Tensor
    factor: Tensor


def num_shared_factors(posterior: dict[str, TorchDistribution]) -> int:
    """Count the numbers of the Gaussian vector that sites are parts of; 0 where they are parts of none."""
    vectors = {id(d.multivariate): d.multivariate for d in posterior.values() if isinstance(d, MultivariatePart)}
    if len(vectors) > 1:
        raise ValueError("posterior: its sites are parts of several Gaussian vectors; click_logits takes one")
    vector = next(iter(vectors.values()), None)
    if isinstance(vector, BlockArrowheadNormal):
        return vector.num_shared
    return 0 if vector is None else factors(vector).factor.shape[-1]


def shared_factors(site: MultivariatePart) -> Factors:
    """Say how a part of a vector is made of the numbers that items share: see `MultivariatePart.factors`.

    Of a `BlockArrowheadNormal` without the noise that each item has by itself.
    """
    vector = site.multivariate
    if not isinstance(vector, BlockArrowheadNormal):
        return site.factors
    here = slice(site.start, site.start + site.part_shape.numel())
    common = vector.common_factor[here].mT.reshape(-1, *site.part_shape)
    return Factors(vector.loc[here].view(site.part_shape), common, None)


def is_certain(site: TorchDistribution) -> bool:
    """Say whether a site is known to be one value."""
    return isinstance(site, dist.Delta) and not isinstance(site, MultivariatePart)


def has_own_noise(site: TorchDistribution) -> bool:
    """Say whether a site has noise beside the numbers of a vector that it is a part of, as far as its family tells."""
    if isinstance(site, MultivariatePart):
        return shared_factors(site).scale is not None
    return not is_certain(site)


def site_vector(posterior: dict[str, TorchDistribution], name: str, num_shared: int) -> SiteVector:
    """Read a scalar or vector site off its distribution; ValueError for one that is not normal."""
    site = posterior[name]
    if isinstance(site, MultivariatePart):
        loc, factor, scale = shared_factors(site)
        if scale is None and name == KAPPA:
            return _with_own_noise(loc, factor)
        return SiteVector(loc, torch.zeros_like(loc) if scale is None else scale, factor)
    if isinstance(site, dist.Delta):
        loc, scale = site.v, torch.zeros_like(site.v)
    else:
        base = getattr(site, "base_dist", site) if name in (KAPPA, BETA_DEVIATION) else site
        if not isinstance(base, dist.Normal):
            wanted = "an independent normal" if name in (KAPPA, BETA_DEVIATION) else "a normal"
            raise ValueError(f"site {name!r}: click_logits needs {wanted} posterior, got {site!r}; use blob.sample")
        loc, scale = base.loc, base.scale
    return SiteVector(loc, scale, loc.new_zeros(num_shared, *loc.shape))


def _with_own_noise(loc: Tensor, factor: Tensor) -> SiteVector:
    """A vector at the end of a Cholesky factor, with as much of its covariance as possible given to its own noise.

    The distribution is the same; but given the shared parameters each entry keeps some variance, as propensities need.
    """
    last = factor[-len(loc) :].mT
    covariance = (last @ last.mT).double()
    least = 0.999 * torch.linalg.eigvalsh(covariance)[0].clamp(min=0)
    eye = torch.eye(len(loc), dtype=covariance.dtype, device=loc.device)
    rest = torch.linalg.cholesky(covariance - least * eye).to(loc.dtype)
    return SiteVector(loc, least.sqrt().to(loc.dtype).expand_as(loc), torch.cat([factor[: -len(loc)], rest.mT]))
