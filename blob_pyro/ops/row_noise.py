"""Random numbers of rows, where a process computes some rows of a step and others the rest.

A step on one machine draws one block of numbers for all its rows. So does every worker of several: the whole block,
from generators in the same state, and picks those of its own rows. Their sum is then the step that one process would
have taken, and what is drawn for all rows together (a shared parameter, negatives) is the same everywhere. A number
costs some nanoseconds; ``benchmarks/distributed.py`` says what share of a step that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Placed", "RowPlate", "per_row", "placed", "rows_of_a_whole"]

_IN_PLACE = {
    getattr(Tensor, name)
    for name in ("normal_", "uniform_", "exponential_", "bernoulli_", "log_normal_", "cauchy_", "geometric_", "random_")
}
_ELEMENTWISE = {
    torch.randn_like, torch.rand_like, torch.randint_like, torch.normal, torch.bernoulli, torch.poisson,
    torch._standard_gamma, torch._sample_dirichlet, torch.dropout, torch.nn.functional.dropout,
    torch.nn.functional.alpha_dropout, Tensor.bernoulli,
}  # fmt: skip
_OF_A_SIZE = {torch.randn, torch.rand, torch.randint}


class Placed(NamedTuple):
    """The places of the rows of a batch in a whole one.

    Attributes:
        positions: of each, ``b``, int64.
        num_rows: of the whole.
        spread: for each row of the whole a row of the batch: its own, or any where the batch has it not.
    """

    positions: Tensor
    num_rows: int
    spread: Tensor


def placed(positions: Tensor, num_rows: int, device: torch.device | str = "cpu") -> Placed | None:
    """Place the rows of a batch in a whole one; None if they are the whole, in its order.

    Args:
        positions: ``b``, int64, on the CPU.
        num_rows: of the whole.
        device: where draws are made.
    """
    if len(positions) == num_rows and torch.equal(positions, torch.arange(num_rows)):
        return None
    spread = torch.zeros(num_rows, dtype=torch.int64)
    spread[positions] = torch.arange(len(positions))
    return Placed(positions.to(device), num_rows, spread.to(device))


_part: ContextVar[Placed | None] = ContextVar("part", default=None)


@contextmanager
def rows_of_a_whole(where: Placed | None) -> Iterator[None]:
    """Take the rows of a batch for some of the rows of a whole one: draws `per_row` are then those of the whole.

    Args:
        where: see `placed`.

    Example:
        >>> with rows_of_a_whole(placed(torch.tensor([0, 3]), 4)), per_row():
        ...     some = (torch.manual_seed(0), torch.zeros(2, 5).normal_())[1]
        >>> bool((some == (torch.manual_seed(0), torch.zeros(4, 5).normal_())[1][[0, 3]]).all())
        True
    """
    token = _part.set(where)
    try:
        yield
    finally:
        _part.reset(token)


def per_row(dim: int = 0) -> AbstractContextManager[Any]:
    """Say that what is drawn inside is drawn for each row of a batch; where the batch is whole, this does nothing.

    Args:
        dim: of the rows in what is drawn.
    """
    part = _part.get()
    return nullcontext() if part is None else _DrawsOfTheWhole(part, dim)


class RowPlate(pyro.plate):
    """A plate of the rows of a batch: what is drawn inside is drawn `per_row`."""

    def __enter__(self) -> Any:
        self._draws = per_row()
        self._draws.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> Any:
        try:
            return super().__exit__(*exception)
        finally:
            self._draws.__exit__(*exception)


class _DrawsOfTheWhole(TorchFunctionMode):
    """Draws the numbers of all rows, and picks some."""

    def __init__(self, part: Placed, dim: int) -> None:
        super().__init__()
        self.part, self.dim = part, dim

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _IN_PLACE and func not in _ELEMENTWISE and func not in _OF_A_SIZE:
            return func(*args, **kwargs)
        if func in _OF_A_SIZE and len(args) > 1 and func is not torch.randint:
            args = (tuple(args),)  # sizes given one by one
        widened = [self._widen(value, func in _IN_PLACE and not at) for at, value in enumerate(args)]
        named = {name: self._widen(value) for name, value in kwargs.items()}
        if not any(w is not a for w, a in zip([*widened, *named.values()], [*args, *kwargs.values()])):
            return func(*args, **kwargs)
        drawn = func(*widened, **named).index_select(self.dim, self.part.positions)
        if func not in _IN_PLACE:
            return drawn
        with torch.no_grad():
            return args[0].copy_(drawn)

    def _widen(self, value: Any, only_shape: bool = False) -> Any:
        num_own, num_rows, dim = len(self.part.positions), self.part.num_rows, self.dim
        if isinstance(value, Tensor) and value.dim() > dim and value.shape[dim] == num_own:
            if only_shape:
                return value.new_empty((*value.shape[:dim], num_rows, *value.shape[dim + 1 :]))
            return value.index_select(dim, self.part.spread)
        if isinstance(value, (tuple, list)) and len(value) > dim and value[dim] == num_own:
            return (*value[:dim], num_rows, *value[dim + 1 :])
        return value
