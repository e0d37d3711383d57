"""Autograd functions of the kernels, in what they have in common."""

import math
from typing import Any

import torch
from torch import Tensor

from blob_pyro.propensity._types import NO_FORWARD, NO_VMAP


class WithoutVmap(torch.autograd.Function):
    """A function that `torch.func.grad` can differentiate, and that says why `torch.func.vmap` cannot batch it."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        """Refuse to be vectorised by ``torch.vmap``."""
        raise ValueError(f"propensities were called inside torch.func.vmap, {NO_VMAP}")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse forward mode: the kernels know their gradients, not their directional derivatives."""
        raise ValueError(f"propensities were differentiated in forward mode, {NO_FORWARD}")


def normal_cdf(z: Tensor) -> Tensor:
    """Compute the standard normal distribution function, to rounding error down to 1e-300.

    ``torch.special.ndtr`` is 0 below -9 or so, and all of an action that rarely wins is in that tail.

    >>> normal_cdf(torch.tensor(-12.0, dtype=torch.float64))
    tensor(1.7765e-33, dtype=torch.float64)
    """
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))


def to_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast with the largest number in place of what overflows: a gradient that is too steep stays a direction."""
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest).to(dtype)
