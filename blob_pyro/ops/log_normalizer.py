"""The log-normaliser of a softmax over a catalogue, a few rows at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blob_pyro.ops import row_chunks

__all__ = ["log_normalizer"]


def log_normalizer(interest: Tensor, item_embedding: Tensor, item_intercept: Tensor) -> Tensor:
    r"""Compute :math:`\log \sum_p \exp(\Psi_p \omega + \rho_p)` of each row, without rows x catalogue in memory.

    What `blob_pyro.ops.row_chunks.in_row_chunks` does for any function, done by hand for this one: all chunks
    share one buffer, forth and back. Left to the allocator, small results among large buffers fragment the heap, and
    the matrix that is never formed is paid for all the same.

    Args:
        interest: omega, ``N x K``.
        item_embedding: Psi, ``P x K``.
        item_intercept: rho, ``P``.

    Returns:
        ``N``.

    Example:
        >>> log_normalizer(torch.zeros(1, 2), torch.ones(4, 2), torch.zeros(4)).exp()
        tensor([4.])
    """
    rows = max(1, row_chunks.MAX_ELEMENTS // max(len(item_intercept), 1))
    result: Tensor = _LogNormalizer.apply(interest, item_embedding, item_intercept, rows)  # type: ignore[no-untyped-call]
    return result


class _LogNormalizer(torch.autograd.Function):
    """Of ``exp(logits - maximum)``, kept from forth to back, and of small factors: no second matrix, no second exp."""

    @staticmethod
    def forward(ctx: Any, interest: Tensor, psi: Tensor, rho: Tensor, rows: int) -> Tensor:
        result, sums = interest.new_empty(len(interest)), interest.new_empty(len(interest))
        buffer = interest.new_empty(min(rows, len(interest)), len(rho))
        for part, out, total in zip(interest.split(rows), result.split(rows), sums.split(rows)):
            logits = torch.addmm(rho, part, psi.mT, out=buffer[: len(part)])
            maximum = logits.amax(-1, keepdim=True)
            torch.sum(logits.sub_(maximum).exp_(), -1, out=total)
            torch.add(total.log(), maximum.squeeze(-1), out=out)
        whole = len(interest) <= rows
        ctx.save_for_backward(interest, psi, rho, *([sums, buffer] if whole else [result]))
        ctx.rows, ctx.whole = rows, whole
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        interest, psi, rho, *kept = ctx.saved_tensors
        if ctx.whole:
            sums, unscaled = kept
            return (*_gradients(unscaled, gradient / sums, interest, psi), None)
        (result,) = kept
        buffer = interest.new_empty(ctx.rows, len(rho))
        to_interest, to_psi, to_rho = torch.empty_like(interest), torch.zeros_like(psi), torch.zeros_like(rho)
        parts = (t.split(ctx.rows) for t in (interest, result, gradient, to_interest))
        for part, normalizer, upstream, out in zip(*parts):
            probs = torch.addmm(rho, part, psi.mT, out=buffer[: len(part)]).sub_(normalizer.unsqueeze(-1)).exp_()
            own, psi_share, rho_share = _gradients(probs, upstream, part, psi)
            out.copy_(own)
            to_psi.add_(psi_share)
            to_rho.add_(rho_share)
        return to_interest, to_psi, to_rho, None


def _gradients(probs: Tensor, weight: Tensor, interest: Tensor, psi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For interest, Psi and rho, of probabilities up to a factor of their row, which is in its weight."""
    weighted = weight.unsqueeze(-1)
    return (probs @ psi).mul_(weighted), probs.mT @ (interest * weighted), probs.mT @ weight
