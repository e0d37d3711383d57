"""Picking from tensors without reading a value off their device: results whose size does not depend on values.

On a GPU a boolean mask or `torch.unique` waits for the device, because the host has to know the size of what comes out.
Where the host knows that size already, or a bound on it, nothing has to wait.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Distinct", "distinct", "is_among", "pick"]


def pick(values: Tensor, mask: Tensor, size: int) -> Tensor:
    """Return ``values[mask]``, given how many there are.

    Args:
        values: of any shape.
        mask: of the same shape.
        size: how often ``mask`` is true.

    Example:
        >>> pick(torch.tensor([[3, -1], [4, 5]]), torch.tensor([[True, False], [True, True]]), 3)
        tensor([3, 4, 5])
    """
    mask = mask.flatten()
    target = torch.where(mask, mask.cumsum(0) - 1, size)  # what is not picked goes to one place at the end
    return values.new_zeros(size + 1).scatter_(0, target, values.flatten())[:size]


class Distinct(NamedTuple):
    """The distinct values of a tensor.

    Attributes:
        values: ascending; after the last distinct one it may be repeated.
        inverse: where each of the tensor's elements stands in ``values``.
        counts: how many elements have each value; 0 for repetitions.
    """

    values: Tensor
    inverse: Tensor
    counts: Tensor


def distinct(numbers: Tensor, num_possible: int) -> Distinct:
    """Return the distinct ones of integers that can take ``num_possible`` values.

    On the CPU there are as many as there are; elsewhere as many as there could be, so that nothing has to be read.

    Args:
        numbers: one-dimensional.
        num_possible: how many different ones there could be.

    Example:
        >>> distinct(torch.tensor([7, 2, 7]), num_possible=10)
        Distinct(values=tensor([2, 7]), inverse=tensor([1, 0, 1]), counts=tensor([1, 2]))
    """
    if numbers.device.type == "cpu":
        return Distinct(*torch.unique(numbers, return_inverse=True, return_counts=True))
    return _distinct_of_known_size(numbers, min(len(numbers), num_possible))


def _distinct_of_known_size(numbers: Tensor, size: int) -> Distinct:
    ordered, order = numbers.sort()
    rank = (ordered.diff(prepend=ordered[:1]) != 0).cumsum(0)
    values = ordered[-1:].repeat(size).scatter_(0, rank, ordered)
    counts = torch.zeros_like(values).scatter_add_(0, rank, torch.ones_like(rank))
    return Distinct(values, torch.empty_like(order).scatter_(0, order, rank), counts)


def is_among(elements: Tensor, values: Tensor) -> Tensor:
    """Say whether each element is one of ``values``, which ascend.

    Example:
        >>> is_among(torch.tensor([5, 2]), torch.tensor([2, 3]))
        tensor([False,  True])
    """
    if not len(values):
        return torch.zeros_like(elements, dtype=torch.bool)
    place = torch.searchsorted(values, elements).clamp(max=len(values) - 1)
    return values[place] == elements
