"""Rows of a step, and which of them a worker has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from blob_pyro.ops.row_noise import Placed, placed

__all__ = ["Part", "Share"]


class Part(NamedTuple):
    """The rows of a step that a worker has.

    Attributes:
        own: row numbers in its own batch, ``b``; never none: a worker without a row of the step lends one, without
            weight.
        weight: its share of the step's rows.
        where: they are among the rows of the step; None where they are all of them.
    """

    own: Tensor
    weight: float = 1.0
    where: Placed | None = None


@dataclass(frozen=True, eq=False)
class Share:
    """The rows of a whole batch that are a worker's own.

    Args:
        rows: in the order of the worker's batch, ascending, int64.
        num_rows: of the whole.

    Example:
        >>> part = Share(torch.tensor([1, 4]), 6).part(torch.tensor([4, 0]))
        >>> part.own, part.weight, part.where.positions
        (tensor([1]), 0.5, tensor([0]))
    """

    rows: Tensor
    num_rows: int

    def part(self, index: Tensor, device: torch.device | str = "cpu") -> Part:
        """Find the rows of a step that are here.

        Args:
            index: rows of the whole; if it has all of them they are in their own order.
            device: where it is computed.
        """
        if len(index) == self.num_rows:
            own, positions = torch.arange(len(self.rows)), self.rows
        elif len(self.rows):
            at = torch.searchsorted(self.rows, index).clamp(max=len(self.rows) - 1)
            positions = (self.rows[at] == index).nonzero().squeeze(-1)
            own = at[positions]
        else:
            own = positions = torch.zeros(0, dtype=torch.int64)
        weight = len(own) / len(index)
        if not len(own):
            own = positions = torch.zeros(1, dtype=torch.int64)
        return Part(own, weight, placed(positions, len(index), device))
