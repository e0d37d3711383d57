"""Where to compute, if the caller does not say."""

from __future__ import annotations

import torch

__all__ = ["default_device"]


def default_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, else CUDA where there is one."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
