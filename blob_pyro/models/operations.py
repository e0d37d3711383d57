"""How the bandit model uses its random parameters: effectful operations that a handler may answer.

By default each computes on the sampled value. A handler that knows the guide's distribution of the site, such as
`blob_pyro.infer.LocalReparameterization`, may answer with a draw of the *result* instead: same law per event, far
less noise in the gradient. The model is written once and never knows.
"""

from __future__ import annotations

from pyro.poutine.runtime import effectful
from torch import Tensor

__all__ = ["bilinear", "broadcast", "gather"]


@effectful(type="bilinear")
def _bilinear(value: Tensor, left: Tensor, right: Tensor) -> Tensor:
    result = (left @ value * right).sum(-1)
    return result.squeeze(-2) if value.dim() > 2 else result  # the plate's own dimension, of size 1


@effectful(type="gather")
def _gather(value: Tensor, index: Tensor) -> Tensor:
    result = value[..., index]
    return result.squeeze(-2) if value.dim() > 1 else result


@effectful(type="broadcast")
def _broadcast(value: Tensor, like: Tensor) -> Tensor:
    return value


def bilinear(site: str, value: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``left_n' X right_n`` for the random matrix ``X`` of a site.

    Args:
        site: name of the sample site.
        value: its sampled value, ``n x m`` (or ``particles x 1 x n x m``).
        left: ``N x n``.
        right: ``N x m``.

    Returns:
        ``N`` (or ``particles x N``).
    """
    return _bilinear(value, left, right, name=site)


def gather(site: str, value: Tensor, index: Tensor) -> Tensor:
    """``x[index_n]`` for the random vector ``x`` of a site: value ``P``, index ``N``, result ``N``."""
    return _gather(value, index, name=site)


def broadcast(site: str, value: Tensor, like: Tensor) -> Tensor:
    """The random scalar of a site, for every event of ``like`` (``N``)."""
    return _broadcast(value, like, name=site)
