"""The organic model's items as the bandit model takes them: Psi, a factor of its Gram matrix, and zeta's units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ItemBasis", "ItemFactors", "whitening"]


class ItemFactors(NamedTuple):
    """The organic model's view of the items: Psi (``P x K``) and ``L`` (``K x K``) with ``L L' = Psi' Psi / P``."""

    embedding: Tensor
    whitening: Tensor


class ItemBasis(NamedTuple):
    """The units that zeta is known in: those of the items of its fit, whatever items have come since.

    Attributes:
        column_norms: of Psi's columns, ``K``; ones where they are not normalised.
        whitening: ``L``, ``K x K``.
    """

    column_norms: Tensor
    whitening: Tensor


def whitening(psi: Tensor, jitter: float = 0.0, *, check: bool = True) -> Tensor:
    """Compute ``L``, lower triangular with ``L L' = Psi' Psi / P``; differentiable (Sakhi et al. 2020, section 3.2).

    Args:
        psi: ``P x K``.
        jitter: added to the diagonal, in units of its mean entry.
        check: whether to raise. Without the check, which waits for the device, ``L`` is NaN where there is none.

    Raises:
        ValueError: if there is no such factor.
    """
    num_items, embedding_dim = psi.shape
    wide = psi.to(torch.float64)
    gram = wide.mT @ wide / num_items
    if jitter:
        gram = gram + jitter * gram.diagonal().mean() * torch.eye(embedding_dim, dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal()
    singular = (info != 0) | ~torch.isfinite(factor).all() | (pivots.min() <= 1e-7 * pivots.max())  # rounding decides
    if not check:
        return torch.where(singular, torch.nan, factor).to(psi.dtype)
    if singular:
        raise ValueError(
            f"item_embedding: its {embedding_dim} columns are linearly dependent (P={num_items}), so Psi'Psi/P has no "
            "Cholesky factor; use an embedding_dim of at most num_items and fit the organic model first, or pass "
            "jitter=1e-6 to go on with an almost singular one"
        )
    result: Tensor = factor.to(psi.dtype)
    return result
