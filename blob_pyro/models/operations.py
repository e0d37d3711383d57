"""How the bandit model uses its random parameters: effectful linear operations that a handler may answer.

Each is linear in the parameter: ``result_n = <A_n, X>`` for the site's value ``X`` and a coefficient ``A_n`` per event.
By default they compute on the sampled value. A handler that knows the guide's distribution of the site, such as
`blob_pyro.infer.LocalReparameterization`, may answer with a draw of the *result* instead: same distribution per event,
far less noise in the gradient. The model is written once and never knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from pyro.poutine.runtime import effectful
from torch import Tensor

__all__ = ["LINEAR", "Linear", "bilinear", "broadcast", "gather", "inner", "renamed_sites", "row_product", "unhandled"]

LINEAR = "linear"
"""Message type of these operations: a messenger answers them in its ``_pyro_linear``."""

_unhandled: ContextVar[bool] = ContextVar("unhandled", default=False)
_names: ContextVar[Mapping[str, str] | None] = ContextVar("names", default=None)

Linear = Callable[..., Tensor]
"""``operation(X, *coefficients)``: ``X`` may have leading dimensions, which the result keeps before its ``N``."""


@effectful(type=LINEAR)
def _linear(value: Tensor, operation: Linear, *coefficients: Tensor) -> Tensor:
    return operation(value, *coefficients)


def _ask(site: str, value: Tensor, operation: Linear, *coefficients: Tensor) -> Tensor:
    if _unhandled.get():
        return operation(value, *coefficients)
    names = _names.get()
    return _linear(value, operation, *coefficients, name=site if names is None else names.get(site, site))


@contextmanager
def unhandled() -> Iterator[None]:
    """Let operations inside compute on the sampled value, whatever handlers there are.

    Pyro's stack of handlers is the process's: without this, arithmetic in one thread would be answered by the handlers
    of a fit in another.
    """
    token = _unhandled.set(True)
    try:
        yield
    finally:
        _unhandled.reset(token)


@contextmanager
def renamed_sites(names: Mapping[str, str]) -> Iterator[None]:
    """Let operations inside, which are said to use some sites, use those that the model has in their place."""
    token = _names.set(names)
    try:
        yield
    finally:
        _names.reset(token)


def _apply(site: str, value: Tensor, event_dim: int, operation: Linear, *coefficients: Tensor) -> Tensor:
    result = _ask(site, value, operation, *coefficients)
    particles = value.dim() > event_dim and result.dim() > 1
    return result.squeeze(-2) if particles else result  # the plate's own dimension, of size 1


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
    return _apply(site, value, 2, linear_bilinear, left, right)


def row_product(site: str, value: Tensor, index: Tensor, right: Tensor) -> Tensor:
    """``X[index_n] right_n`` for the random matrix of a site: value ``n x m``, index ``N``, right ``N x m``."""
    return _apply(site, value, 2, linear_row_product, index, right)


def inner(site: str, value: Tensor, right: Tensor) -> Tensor:
    """``x' right_n`` for the random vector ``x`` of a site: value ``m``, right ``N x m``, result ``N``."""
    return _apply(site, value, 1, linear_inner, right)


def gather(site: str, value: Tensor, index: Tensor) -> Tensor:
    """``x[index_n]`` for the random vector ``x`` of a site: value ``P``, index ``N``, result ``N``."""
    return _apply(site, value, 1, linear_gather, index)


def broadcast(site: str, value: Tensor, like: Tensor) -> Tensor:
    """The random scalar of a site, for every event of ``like`` (``N``)."""
    return _ask(site, value, linear_broadcast, like.new_zeros(like.shape[-1:], dtype=torch.int64))


# What a handler is given: the operations themselves, linear in their first argument.


def linear_bilinear(value: Tensor, left: Tensor, right: Tensor) -> Tensor:
    if value.dim() == 2:
        return (left @ value * right).sum(-1)
    outer = (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2)
    return value.flatten(-2) @ outer.mT


def linear_row_product(value: Tensor, index: Tensor, right: Tensor) -> Tensor:
    return (value[..., index, :] * right).sum(-1)


def linear_inner(value: Tensor, right: Tensor) -> Tensor:
    return value @ right.mT


def linear_gather(value: Tensor, index: Tensor) -> Tensor:
    return value[..., index]


def linear_broadcast(value: Tensor, index: Tensor) -> Tensor:
    return value
