"""From a precision matrix to the Cholesky factor of its inverse."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["scale_tril_from_precision"]


def scale_tril_from_precision(precision: Tensor) -> Tensor:
    """Lower triangular ``L`` with ``L L' = precision^-1``, without forming the inverse; ``... x K x K``.

    Example:
        >>> scale_tril_from_precision(torch.tensor([[4.0, 0.0], [0.0, 16.0]]))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.2500]])
    """
    # precision = U U' with U upper triangular, by the Cholesky factor of the matrix read from its last corner.
    upper = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1)
    identity = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    return torch.linalg.solve_triangular(upper.mT, identity.expand_as(precision), upper=False)
