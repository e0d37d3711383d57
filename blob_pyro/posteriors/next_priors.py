"""The next prior, made of a posterior."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from blob_pyro.distributions import ArrowheadNormal, MatrixNormal, MultivariatePart
from blob_pyro.distributions.powers import sharpened, widened
from blob_pyro.models import BanditModel, BanditPriors, VectorPrior
from blob_pyro.ops.tensors import detached, map_tensors

__all__ = ["next_priors", "widened"]


def next_priors(model: BanditModel, posterior: dict[str, TorchDistribution], forgetting: float = 1.0) -> BanditPriors:
    r"""Put the posterior in the place of the model's priors: site by site, or one vector where it correlates them.

    With ``q`` the posterior and ``p_0`` the prior before any event, ``p_new \propto q^f p_0^(1 - f)`` for forgetting
    ``f``, the power prior of Ibrahim & Chen (2000) again and again: natural parameters are averaged, what events have
    said fades, and nobody's doubt outgrows the initial prior's. Scales that are learned are learned again: the next fit
    knows at which values the posterior holds (`BanditPriors.scales`).

    Args:
        model: whose priors they were.
        posterior: of each site: independent normals, matrix normals, or parts of one Gaussian vector.
        forgetting: in (0, 1].

    Raises:
        ValueError: for ``forgetting`` outside (0, 1]; a site whose posterior is of another family, naming it; if
            something is to be forgotten, for an initial prior without a variance, or that correlates numbers.
    """
    if not 0 < forgetting <= 1:
        raise ValueError(f"forgetting: must lie in (0, 1], got {forgetting}")
    memo: dict[int, TorchDistribution] = {}  # copies: a guide that goes on from here must not move its own prior
    distributions = {name: map_tensors(posterior[name], torch.clone, memo) for name in model.site_priors()}
    initial = detached(model.initial_site_priors())
    first = model.priors if model.priors.initial is None else model.priors.initial
    again = {name: site for name, site in model.learned.items() if _is_normal(initial[site])}
    scales = {name: float(getattr(model, name).detach()) for name in again}
    common: dict[str, Any] = {"scales": scales, "initial": first}
    if forgetting < 1 and first.vector is not None:
        raise ValueError(
            "forgetting: the initial prior is BanditPriors.vector, one Gaussian over all sites, and an average of its "
            "precision and the posterior's has another shape; use forgetting=1, or priors of independent sites"
        )
    parts = sorted(
        (p for p in distributions.items() if isinstance(p[1], MultivariatePart)), key=lambda item: item[1].start
    )
    if parts and len(parts) == len(distributions) and len({id(part.multivariate) for _, part in parts}) == 1:
        shapes = {name: tuple(part.part_shape) for name, part in parts}
        moments = [_independent(name, initial[name]) for name in shapes] if forgetting < 1 else []
        precision, loc = (torch.cat([pair[i].flatten() for pair in moments]) if moments else None for i in (0, 1))
        vector = parts[0][1].multivariate
        if isinstance(vector, ArrowheadNormal):
            widest = [
                initial[n].stddev.flatten() if n in again.values() else vector.loc.new_full((Size(shape).numel(),), inf)
                for n, shape in shapes.items()
            ]
            vector = _own_not_wider(vector, torch.cat(widest))
        distribution = _faded("all sites together", vector, forgetting, precision, loc)
        return replace(model.priors, sites={}, vector=VectorPrior(distribution, shapes), **common)
    sites = {}
    for name, distribution in distributions.items():
        pair = _independent(name, initial[name]) if forgetting < 1 else (None, None)
        known = _not_wider(distribution, initial[name]) if name in again.values() else distribution
        sites[name] = _faded(repr(name), known, forgetting, *pair)
    return replace(model.priors, sites=sites, **common)


def _faded(
    what: str, posterior: TorchDistribution, forgetting: float, precision: Tensor | None, loc: Tensor | None
) -> TorchDistribution:
    """A posterior to a power, times the initial prior to the rest of it."""
    found = widened(posterior, forgetting**-0.5)
    if found is not None and precision is not None and loc is not None:
        found = sharpened(found, ((1 - forgetting) * precision).to(loc), loc)
    if found is None:
        raise ValueError(
            f"update: the posterior of {what} is {type(posterior).__name__}, and the next prior must be Gaussian; use "
            "a guide whose sites are Gaussian, such as 'normal' or 'laplace', or fit all events again"
        )
    return found


def _independent(name: str, prior: TorchDistribution) -> tuple[Tensor, Tensor]:
    """Precision and mean of each number of an initial prior, or of the normal with its moments."""
    if isinstance(prior, MatrixNormal):
        rows, columns = (tril @ tril.mT for tril in (prior.row_scale_tril, prior.column_scale_tril))
        correlated = any(bool((matrix != matrix.diagonal().diag()).any()) for matrix in (rows, columns))
    else:
        correlated = isinstance(
            prior, (dist.MultivariateNormal, dist.LowRankMultivariateNormal, dist.MultivariateStudentT)
        )
    if correlated:
        raise ValueError(
            f"forgetting: the initial prior of {name!r} correlates its numbers, {prior!r}; use forgetting=1, or an "
            "initial prior of independent numbers"
        )
    try:
        loc, variance = prior.mean, prior.variance
    except NotImplementedError:
        loc = variance = torch.full((), torch.nan)
    if not (torch.isfinite(variance).all() and torch.isfinite(loc).all()):
        raise ValueError(
            f"forgetting: the initial prior of {name!r}, {prior!r}, has no mean or variance to return to; use "
            "forgetting=1, or another prior"
        )
    return variance.reciprocal().expand(prior.event_shape), loc.expand(prior.event_shape)


def _is_normal(prior: TorchDistribution) -> bool:
    base = prior.base_dist if isinstance(prior, dist.Independent) else prior
    return isinstance(base, dist.Normal)


def _not_wider(distribution: TorchDistribution, prior: TorchDistribution) -> TorchDistribution:
    """Independent normals that no event can have made less certain than their prior: what is more is noise of SVI."""
    base = distribution.base_dist if isinstance(distribution, dist.Independent) else distribution
    if not isinstance(base, dist.Normal):
        return distribution
    scale = torch.minimum(base.scale, prior.stddev.to(base.scale))
    narrowed = dist.Normal(base.loc, scale, validate_args=False)
    return narrowed.to_event(distribution.event_dim) if distribution.event_dim else narrowed


def _own_not_wider(distribution: ArrowheadNormal, widest: Tensor) -> ArrowheadNormal:
    """The same of numbers that are independent given those that are shared."""
    shared, loading = distribution.shared_scale_tril, distribution.loading
    scale = torch.minimum(distribution.scale, widest[distribution.num_shared :].to(distribution.scale))
    return ArrowheadNormal(distribution.loc, shared, loading, scale, validate_args=False)
