"""The device to compute on, if the caller does not say."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["default_device"]


def default_device(device: torch.device | str | None, argument: str = "device") -> torch.device:
    """Return the device asked for, else CUDA where there is one.

    Args:
        device: a device or its name.
        argument: what the caller calls it.

    Raises:
        TypeError: if it is neither.
        ValueError: if there is no such device, or torch cannot use it here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"{argument}: expected a torch.device or its name, got {device!r} (a {_kind(device)})")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)  # torch finds out here that there is no such one
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"{argument}: {str(device)!r} cannot be used here ({_first_line(error)}); give 'cpu', 'cuda' where there "
            "is one, or None to choose"
        ) from error
    if found.type == "meta":
        raise ValueError(f"{argument}: 'meta' tensors hold no numbers; give 'cpu', 'cuda' where there is one, or None")
    return found


def _kind(value: Any) -> str:
    return type(value).__name__


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
