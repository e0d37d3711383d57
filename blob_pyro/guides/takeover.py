"""Guides of a model that has gained items: what was known stays as it is, what is new starts from its prior.

A guide of yours takes part by a method ``take_over(old, priors)``: it is called on a guide that has just been made of
the larger model, with the guide of the smaller one and the prior of each site before any event. Sites that have grown
have done so at the end of their first dimension; others may have come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from blob_pyro.guides.registry import guide_name
from blob_pyro.ops.tensors import any_tensor

__all__ = ["guide_taking_over", "normal_moments", "take_over_rows"]

_QUANTILES = 1000  # of a prior that has no moments of its own


def guide_taking_over(
    old: nn.Module, make: Callable[[], nn.Module], priors: Mapping[str, TorchDistribution]
) -> nn.Module:
    """Make a guide of a larger model that knows what the guide of the smaller one does.

    Args:
        old: of the smaller model.
        make: makes a fresh guide of the larger one.
        priors: of its sites, before any event.

    Raises:
        ValueError: for a guide that does not say how.
    """
    if not callable(getattr(type(old), "take_over", None)):
        raise ValueError(
            f"guide: {guide_name(old)} does not say what it knows of items that are new; give its class a method "
            "take_over(old, priors), see blob_pyro.guides.takeover, or fit a new BLOB to all events"
        )
    fresh = make()
    taking: Any = fresh
    with torch.no_grad():
        taking.take_over(old, priors)
    return fresh


def normal_moments(prior: TorchDistribution) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of each number of a prior: of the normal that comes closest to it.

    Where it does not say them, they are those of a thousand evenly spaced quantiles.
    """
    kind = any_tensor(prior)
    try:
        loc, scale = prior.mean.detach(), prior.stddev.detach()
    except NotImplementedError:
        loc = scale = torch.full((), torch.nan)
    if not (torch.isfinite(loc).all() and torch.isfinite(scale).all()):
        base = prior.base_dist if isinstance(prior, dist.Independent) else prior
        levels = ((torch.arange(_QUANTILES) + 0.5) / _QUANTILES).to(kind)
        found = torch.stack([base.icdf(level).detach().double().expand(prior.event_shape) for level in levels])
        loc, scale = found.mean(0), found.std(0, correction=0)
    loc, scale = (moment.to(kind).expand(prior.event_shape).clone() for moment in (loc, scale))
    return loc, scale


def take_over_rows(new: nn.Module, old: nn.Module) -> None:
    """Copy parameters and buffers, number for number; of one that has grown, the first rows."""
    before = old.state_dict()
    for name, tensor in new.state_dict().items():
        if name in before:
            rows = before[name].shape[0] if tensor.dim() else None
            (tensor if rows is None else tensor[:rows]).copy_(before[name])
