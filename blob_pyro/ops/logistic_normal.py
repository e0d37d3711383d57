"""The average of the logistic function over normal numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import ndtr

__all__ = ["expected_sigmoid"]

_NORMAL_STEP, _NORMAL_REACH = 0.4, 21  # nodes up to 8.4 standard deviations
_LOGISTIC_STEP, _LOGISTIC_REACH = 0.6, 62  # nodes up to 37, beyond which there is 1e-16 of a logistic number


def expected_sigmoid(loc: Tensor, scale: Tensor) -> Tensor:
    r"""Compute the chance of success at a normal logit, :math:`E\,\sigma(Y)` with :math:`Y \sim N(loc, scale^2)`.

    Two trapezoidal rules, each exact to 1e-9 or better where it is used. For scales below one, over the normal number.
    For larger ones the logistic function is steep in it; but :math:`\sigma(Y) = P(L < Y \mid Y)` for a logistic
    :math:`L`, so that :math:`E\,\sigma(Y) = E\,\Phi((loc - L) / scale)`, which is smooth, is summed over ``L``.

    Args:
        loc: any shape.
        scale: standard deviations, of a shape that broadcasts with ``loc``'s; 0 is allowed.

    Returns:
        Probabilities of the shape of both, in their dtype.

    Example:
        >>> expected_sigmoid(torch.tensor([0.0, 2.0, 2.0]), torch.tensor([3.0, 0.0, 3.0]))
        tensor([0.5000, 0.8808, 0.7174])
    """
    loc, scale = torch.broadcast_tensors(loc, scale)
    wide = scale >= 1
    narrow_scale, wide_scale = torch.where(wide, 0.0, scale), torch.where(wide, scale, 1.0)
    narrow, broad = torch.zeros_like(loc), torch.zeros_like(loc)
    normal = _NORMAL_STEP * torch.arange(-_NORMAL_REACH, _NORMAL_REACH + 1, dtype=torch.float64)
    for node, weight in zip(normal.tolist(), torch.softmax(-normal.square() / 2, -1).tolist()):
        narrow = narrow + weight * torch.sigmoid(loc + narrow_scale * node)
    logistic = _LOGISTIC_STEP * torch.arange(-_LOGISTIC_REACH, _LOGISTIC_REACH + 1, dtype=torch.float64)
    weights = torch.sigmoid(logistic) * torch.sigmoid(-logistic)
    for node, weight in zip(logistic.tolist(), (weights / weights.sum()).tolist()):
        broad = broad + weight * ndtr((loc - node) / wide_scale)
    return torch.where(wide, broad, narrow)
