"""The total variation between two policies, whose probabilities may be estimates."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

__all__ = ["TotalVariation", "total_variation"]


class TotalVariation(NamedTuple):
    """Total variation distances, in each of ``N`` contexts.

    Attributes:
        value: ``N``, half the sum over items of the absolute difference of the probabilities: the largest difference
            that any set of items shows, and the share of decisions that would have to change.
        error: ``N``, by how much the reference's own errors may move the value, on average; they move it up rather than
            down, so that a value of the size of its error is no sign of a difference.
    """

    value: Tensor
    error: Tensor


def total_variation(probs: Tensor, reference: Tensor, reference_error: Tensor) -> TotalVariation:
    """Compare probabilities with a reference that has errors.

    Args:
        probs: ``N x P``.
        reference: ``N x P``.
        reference_error: ``N x P``, standard errors of the reference, taken for normal: ``E |e| = sqrt(2 / pi) s``.

    Example:
        >>> import torch
        >>> total_variation(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.6, 0.4]]), torch.tensor([[0.01, 0.01]]))
        TotalVariation(value=tensor([0.1000]), error=tensor([0.0080]))
    """
    error = reference_error.sum(-1) * math.sqrt(2 / math.pi) / 2
    return TotalVariation((probs - reference).abs().sum(-1) / 2, error)
