"""The tensors inside a distribution."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["detached", "like", "map_tensors"]


def map_tensors(d: TorchDistribution, function: Callable[[Tensor], Tensor]) -> TorchDistribution:
    """The same distribution with ``function`` of every tensor in it, those of the distributions it is made of too.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> map_tensors(dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1), lambda t: 3 + t).mean
        tensor([3., 3.])
    """
    new = copy(d)
    for name, value in vars(d).items():
        if isinstance(value, Tensor):
            setattr(new, name, function(value))
        elif isinstance(value, Distribution):
            setattr(new, name, map_tensors(value, function))
    return new


def detached(d: TorchDistribution) -> TorchDistribution:
    """Without a graph: what is computed from it keeps no memory of the parameters it came from."""
    return map_tensors(d, lambda t: t.detach())


def like(d: TorchDistribution, tensor: Tensor) -> TorchDistribution:
    """With the device of ``tensor``, and its dtype for what is not an integer."""
    return map_tensors(d, lambda t: t.to(tensor) if t.is_floating_point() else t.to(tensor.device))
