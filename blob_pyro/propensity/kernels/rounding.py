"""From float64 back to the dtype of the user."""

import torch
from torch import Tensor


def to_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast with the largest number in place of what overflows: a gradient that is too steep stays a direction."""
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest).to(dtype)
