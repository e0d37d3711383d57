"""Factors of precision matrices, and of their inverses."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cholesky", "scale_tril_from_precision"]


def cholesky(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factor; NaN for a matrix that has none, which costs no look at the device.

    Example:
        >>> cholesky(torch.tensor([[[4.0]], [[-1.0]]]))
        tensor([[[2.]],
                [[nan]]])
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    return torch.where((info == 0)[..., None, None], factor, torch.nan)


def scale_tril_from_precision(precision: Tensor, *, check: bool = True) -> Tensor:
    """Compute the lower triangular ``L`` with ``L L' = precision^-1``, without forming it, of each ``K x K`` matrix.

    Args:
        precision: ``... x K x K``.
        check: raise `torch.linalg.LinAlgError` if it is not positive definite. Without the check, which waits for the
            device, ``L`` is NaN then.

    Example:
        >>> scale_tril_from_precision(torch.tensor([[4.0, 0.0], [0.0, 16.0]]))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.2500]])
    """
    # precision = U U' with U upper triangular, by the Cholesky factor of the matrix read from its last corner.
    factor = torch.linalg.cholesky if check else cholesky
    upper = factor(precision.flip(-2, -1)).flip(-2, -1)
    identity = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    result: Tensor = torch.linalg.solve_triangular(upper.mT, identity.expand_as(precision), upper=False)
    return result
