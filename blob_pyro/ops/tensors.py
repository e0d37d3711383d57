"""The tensors inside a distribution."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["any_tensor", "detached", "like", "map_tensors"]


def map_tensors(
    d: TorchDistribution, function: Callable[[Tensor], Tensor], memo: dict[int, TorchDistribution] | None = None
) -> TorchDistribution:
    """Apply ``function`` to every tensor that a distribution is made of, those of its own distributions too.

    Args:
        d: not changed.
        function: of a tensor.
        memo: what has been mapped already, by the ``id`` of what it was: what several distributions share, they share
            afterwards.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> map_tensors(dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1), lambda t: 3 + t).mean
        tensor([3., 3.])
    """
    memo = {} if memo is None else memo
    if id(d) in memo:
        return memo[id(d)]
    new = memo[id(d)] = copy(d)
    for name, value in vars(d).items():
        if isinstance(value, Tensor):
            setattr(new, name, function(value))
        elif isinstance(value, Distribution):
            setattr(new, name, map_tensors(value, function, memo))
    return new


def any_tensor(d: TorchDistribution) -> Tensor:
    """Find a floating-point tensor that the distribution is made of: for its dtype and device.

    Raises:
        TypeError: if there is none.
    """
    found: list[Tensor] = []
    map_tensors(d, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    for tensor in found:
        if tensor.is_floating_point():
            return tensor
    raise TypeError(f"{type(d).__name__}: has no tensor of real numbers among its attributes")


def detached(distributions: dict[str, TorchDistribution]) -> dict[str, TorchDistribution]:
    """Detach tensors: what is computed from them keeps no memory of the parameters they came from."""
    memo: dict[int, TorchDistribution] = {}
    return {name: map_tensors(d, lambda t: t.detach(), memo) for name, d in distributions.items()}


def like(d: TorchDistribution, tensor: Tensor) -> TorchDistribution:
    """Move tensors to the device of ``tensor``, and to its dtype what is not an integer."""
    return map_tensors(d, lambda t: t.to(tensor) if t.is_floating_point() else t.to(tensor.device))
