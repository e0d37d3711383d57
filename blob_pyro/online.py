"""From one posterior to the next prior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyro.distributions as dist
from pyro.distributions import TorchDistribution

from blob_pyro.distributions import MatrixNormal
from blob_pyro.models import BanditModel, BanditPriors

__all__ = ["next_priors"]


def next_priors(model: BanditModel, posterior: dict[str, TorchDistribution], forgetting: float = 1.0) -> BanditPriors:
    r"""The model's priors with the posterior of each site in their place.

    ``p_new(theta) \propto q(theta)^forgetting``: for a Gaussian, the variance divided by ``forgetting``.

    Args:
        model: whose priors they were.
        posterior: of each site: independent normals, or matrix normals.
        forgetting: in (0, 1].

    Raises:
        ValueError: for ``forgetting`` outside (0, 1], or a site whose posterior is of another family, naming it.
    """
    if not 0 < forgetting <= 1:
        raise ValueError(f"forgetting: must lie in (0, 1], got {forgetting}")
    names = model.site_priors()
    sites = {name: _tempered(name, posterior[name], forgetting) for name in names}
    return replace(model.priors, sites=sites)


def _tempered(name: str, posterior: TorchDistribution, forgetting: float) -> TorchDistribution:
    widening = forgetting**-0.5
    if isinstance(posterior, MatrixNormal):
        return MatrixNormal(posterior.loc, widening * posterior.row_scale_tril, posterior.column_scale_tril)
    base: Any = posterior.base_dist if isinstance(posterior, dist.Independent) else posterior
    if isinstance(base, dist.Normal):
        normal = dist.Normal(base.loc, widening * base.scale)
        return normal.to_event(posterior.event_dim) if posterior.event_dim else normal
    raise ValueError(
        f"update: the posterior of {name!r} is {type(posterior).__name__}, and the next prior must be independent "
        "Gaussians; use guide 'normal', 'matrix_normal' or 'matrix_normal_full', or fit all events again"
    )
