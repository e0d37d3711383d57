"""Autograd functions of the kernels, in what they have in common."""

from typing import Any

import torch
from torch import Tensor

from blob_pyro.propensity._types import NO_VMAP


class WithoutVmap(torch.autograd.Function):
    """A function that `torch.func.grad` can differentiate, and that says why `torch.func.vmap` cannot batch it."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        """Refuse to be vectorised by ``torch.vmap``."""
        raise ValueError(f"propensities were called inside torch.func.vmap, {NO_VMAP}")


def to_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast with the largest number in place of what overflows: a gradient that is too steep stays a direction."""
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest).to(dtype)
