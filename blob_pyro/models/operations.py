"""Linear operations by which the bandit model uses its random parameters, and which a handler may answer.

Each is linear in the parameter: ``result_n = <A_n, X>`` for the site's value ``X`` and a coefficient ``A_n`` per event.
By default they compute on the sampled value. A handler that knows the guide's distribution of the site, such as
`blob_pyro.infer.LocalReparameterization`, may answer with a draw of the *result* instead: same distribution per event,
far less noise in the gradient. The model is written once and never knows.

An operation is one object, which knows its value, its square and its Jacobian: all that handlers and Laplace's
approximation ask of it. Yours is a `LinearOperation`, here or anywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

import torch
from pyro.poutine.runtime import effectful
from torch import Size, Tensor

__all__ = [
    "LINEAR", "Bilinear", "Broadcast", "Gather", "Inner", "LinearOperation", "RowProduct", "bilinear", "broadcast",
    "gather", "inner", "renamed_sites", "row_product", "unhandled",
]  # fmt: skip

LINEAR = "linear"
"""Message type of these operations: a messenger answers them in its ``_pyro_linear``."""

_unhandled: ContextVar[bool] = ContextVar("unhandled", default=False)
_names: ContextVar[Mapping[str, str] | None] = ContextVar("names", default=None)


class LinearOperation(ABC):
    """A linear function of a site's value, for each of ``N`` events: ``operation(site, value, *coefficients)``.

    A subclass says what the site's `event_dim` is and implements `value`; `square` and `jacobian` follow from it, and
    are overridden where there is a faster way. `blob_pyro.testing.check_operation` says whether they agree.

    Example:
        >>> class Difference(LinearOperation):
        ...     '''``x[i_n] - x[j_n]``.'''
        ...     event_dim = 1
        ...     def value(self, x, first, second):
        ...         return x[..., first] - x[..., second]
        >>> difference = Difference()
        >>> difference("kappa", torch.tensor([1.0, 3.0, 7.0]), torch.tensor([2, 0]), torch.tensor([1, 1]))
        tensor([ 4., -2.])
    """

    event_dim: ClassVar[int]
    """Dimensions of the site's value: 0 for a number, 1 for a vector, 2 for a matrix."""

    @abstractmethod
    def value(self, x: Tensor, *coefficients: Tensor) -> Tensor:
        """Compute the operation's value.

        Args:
            x: the site's value; it may have leading dimensions, which the result keeps before its ``N``.
            coefficients: ``N`` rows each: floating-point tensors, which ``x`` is multiplied by, and integer ones, which
                pick among its entries.

        Returns:
            ``... x N``; or without the ``N`` where it is the same for all events.
        """

    def square(self, variance: Tensor, *coefficients: Tensor) -> Tensor:
        """Compute the variance of the value where the entries of ``x`` are independent: ``sum_i A_ni^2 variance_i``.

        Args:
            variance: of each entry, of the shape of ``x``.
            coefficients: as `value`.

        Returns:
            As `value`.
        """
        return self.jacobian(variance.shape, *coefficients).to(variance).square() @ variance.flatten()

    def jacobian(self, shape: Size, *coefficients: Tensor) -> Tensor:
        """Return the derivatives ``A_n`` of the value by each entry of ``x``, ``N x numel``.

        Args:
            shape: of ``x``.
            coefficients: as `value`.
        """
        like = next((c for c in coefficients if c.is_floating_point()), torch.empty(()))
        units = torch.eye(shape.numel(), dtype=like.dtype, device=coefficients[0].device)
        return self.each(self.value(units.view(-1, *shape), *coefficients), 1, *coefficients).mT

    def outer_factors(self, *coefficients: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return ``l_n`` (``N x n``) and ``r_n`` (``N x m``) with ``A_n = l_n r_n'``, where ``A_n`` is such.

        With them a matrix normal has a projection: see `blob_pyro.infer.local_reparameterization.projections`.
        """
        return None

    @staticmethod
    def each(result: Tensor, leading: int, *coefficients: Tensor) -> Tensor:
        """Give a result of `value` the ``leading`` dimensions before its ``N``, where all rows are alike."""
        if result.dim() > leading:
            return result
        return result.unsqueeze(-1).expand(*result.shape, coefficients[0].shape[-1])

    def __call__(self, site: str, value: Tensor, *coefficients: Tensor) -> Tensor:
        """Use a site: what a model says.

        Args:
            site: name of the sample site.
            value: its sampled value (or ``particles x 1 x`` its shape).
            coefficients: as the method `value`.

        Returns:
            ``N`` (or ``particles x N``).
        """
        result = _ask(site, value, self, *coefficients)
        particles = value.dim() > self.event_dim > 0 and result.dim() > 1
        return result.squeeze(-2) if particles else result  # the plate's own dimension, of size 1

    def __repr__(self) -> str:
        return type(self).__name__


class _Separable(LinearOperation):
    """One whose coefficients are products of the arguments' numbers, each of which meets an entry once."""

    def square(self, variance: Tensor, *coefficients: Tensor) -> Tensor:
        """See `LinearOperation.square`: the same function of the squares."""
        return self.value(variance, *(c.square() if c.is_floating_point() else c for c in coefficients))


class Bilinear(_Separable):
    """``left_n' X right_n`` for the random matrix ``X`` of a site: value ``n x m``, left ``N x n``, right ``N x m``."""

    event_dim = 2

    def value(self, x: Tensor, *coefficients: Tensor) -> Tensor:
        """Compute the value of the operation, ``N``; see `LinearOperation.value`."""
        left, right = coefficients
        if x.dim() == 2:
            return (left @ x * right).sum(-1)
        outer = (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2)
        return x.flatten(-2) @ outer.mT

    def jacobian(self, shape: Size, *coefficients: Tensor) -> Tensor:
        """Return the derivatives of the value by each entry, ``N x numel``; see `LinearOperation.jacobian`."""
        left, right = coefficients
        return (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(1)

    def outer_factors(self, *coefficients: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the two factors of each row of the operation; see `LinearOperation.outer_factors`."""
        left, right = coefficients
        return left, right


class RowProduct(_Separable):
    """``X[index_n] right_n`` for the random matrix of a site: value ``n x m``, index ``N``, right ``N x m``."""

    event_dim = 2

    def value(self, x: Tensor, *coefficients: Tensor) -> Tensor:
        """Compute the value of the operation, ``N``; see `LinearOperation.value`."""
        index, right = coefficients
        return (x[..., index, :] * right).sum(-1)

    def jacobian(self, shape: Size, *coefficients: Tensor) -> Tensor:
        """Return the derivatives of the value by each entry, ``N x numel``; see `LinearOperation.jacobian`."""
        index, right = coefficients
        design = right.new_zeros(len(right), *shape)
        design[torch.arange(len(right), device=right.device), index] = right
        return design.flatten(1)


class Inner(_Separable):
    """``x' right_n`` for the random vector ``x`` of a site: value ``m``, right ``N x m``."""

    event_dim = 1

    def value(self, x: Tensor, *coefficients: Tensor) -> Tensor:
        """Compute the value of the operation, ``N``; see `LinearOperation.value`."""
        (right,) = coefficients
        return x @ right.mT

    def jacobian(self, shape: Size, *coefficients: Tensor) -> Tensor:
        """Return the derivatives of the value by each entry, ``N x numel``; see `LinearOperation.jacobian`."""
        (right,) = coefficients
        return right


class Gather(_Separable):
    """``x[index_n]`` for the random vector ``x`` of a site: value ``P``, index ``N``."""

    event_dim = 1

    def value(self, x: Tensor, *coefficients: Tensor) -> Tensor:
        """Compute the value of the operation, ``N``; see `LinearOperation.value`."""
        (index,) = coefficients
        return x[..., index]

    def jacobian(self, shape: Size, *coefficients: Tensor) -> Tensor:
        """Return the derivatives of the value by each entry, ``N x numel``; see `LinearOperation.jacobian`."""
        (index,) = coefficients
        return torch.nn.functional.one_hot(index, shape.numel())


class Broadcast(_Separable):
    """The random scalar of a site, for every event of ``like`` (``N``)."""

    event_dim = 0

    def value(self, x: Tensor, *coefficients: Tensor) -> Tensor:
        """Compute the value of the operation, ``N``; see `LinearOperation.value`."""
        return x

    def __call__(self, site: str, value: Tensor, *coefficients: Tensor) -> Tensor:
        """See `LinearOperation.__call__`."""
        (like,) = coefficients
        return super().__call__(site, value, like.new_zeros(like.shape[-1:], dtype=torch.int64))


bilinear, row_product, inner, gather, broadcast = Bilinear(), RowProduct(), Inner(), Gather(), Broadcast()


@effectful(type=LINEAR)
def _linear(value: Tensor, operation: LinearOperation, *coefficients: Tensor) -> Tensor:
    return operation.value(value, *coefficients)


def _ask(site: str, value: Tensor, operation: LinearOperation, *coefficients: Tensor) -> Tensor:
    if _unhandled.get():
        return operation.value(value, *coefficients)
    names = _names.get()
    result: Tensor = _linear(value, operation, *coefficients, name=site if names is None else names.get(site, site))
    return result


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
