"""Memory asked for before it is taken: a number of bytes in an error, not a process that dies in the allocator."""

from __future__ import annotations

import psutil
import torch

__all__ = ["available_memory", "require_memory"]


def available_memory(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes that can be had on a device without swapping; None where nobody knows."""
    device = torch.device(device)
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return None


def require_memory(num_bytes: int, what: str, remedy: str, device: torch.device | str = "cpu") -> None:
    """Refuse what does not fit, before anything is allocated.

    Args:
        num_bytes: that are about to be allocated at once.
        what: they are for, as the subject of a sentence.
        remedy: what to do instead.
        device: where they would be allocated.

    Raises:
        MemoryError: naming the number of bytes, what they are for, what there is, and the remedy.

    Example:
        >>> require_memory(10**18, "probs of 1e9 contexts x 1e9 items", "ask for log_prob of what was played")
        Traceback (most recent call last):
        ...
        MemoryError: probs of 1e9 contexts x 1e9 items would take 1,000,000,000,000,000,000 bytes (931,322,574.6 GiB)...
    """
    available = available_memory(device)
    if available is not None and num_bytes > available:
        raise MemoryError(
            f"{what} would take {num_bytes:,} bytes ({num_bytes / 2**30:,.1f} GiB), and {available / 2**30:,.1f} GiB "
            f"are available on {device}; {remedy}"
        )
