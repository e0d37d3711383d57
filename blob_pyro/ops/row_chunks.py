"""Row-wise functions of batches times the catalogue, without the batch times the catalogue in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["MAX_ELEMENTS", "in_row_chunks"]

MAX_ELEMENTS = 1 << 22
"""Numbers in one intermediate matrix: 16 MiB in single precision. No result depends on it."""


def in_row_chunks(
    function: Callable[..., Tensor], *rows: Tensor, width: int, max_elements: int | None = None
) -> Tensor:
    """Compute ``function(*rows)`` for a few rows at a time; what it needs for its gradient is computed twice.

    A softmax over 100,000 items for 4,096 sessions is 1.6 GB, and its gradient takes as much again for every
    intermediate. In chunks, with the forward pass of each repeated when its gradient is asked for, neither ever
    exists. A batch that fits in one chunk is computed as it is.

    Args:
        function: row-wise: row ``n`` of its result depends on row ``n`` of each argument, and on tensors that it
            closes over, which get their gradient too. It must not draw random numbers.
        rows: tensors with the same first dimension ``N``.
        width: how many numbers ``function`` computes per row.
        max_elements: rows times width of a chunk; `MAX_ELEMENTS` by default.

    Returns:
        ``N x ...``.

    Example:
        >>> logits, weight = torch.zeros(3, 2), torch.ones(2, 8)
        >>> in_row_chunks(lambda x: (x @ weight).logsumexp(-1), logits, width=8, max_elements=16).exp()
        tensor([8., 8., 8.])
    """
    size = max(1, (MAX_ELEMENTS if max_elements is None else max_elements) // max(width, 1))
    if rows[0].shape[0] <= size:
        return function(*rows)
    parts = zip(*(r.split(size) for r in rows))
    if not torch.is_grad_enabled():
        return torch.cat([function(*part) for part in parts])
    return torch.cat([checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])
