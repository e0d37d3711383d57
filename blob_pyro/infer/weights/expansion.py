r"""The clicks' log-likelihood to second order in what logits are linear in, with kappa eliminated.

With ``Z = sp(w_a) L^{-T} + sp(w_b) zeta`` a logit is
:math:`\lambda_n = l_n' Z r_n + \kappa_{a_n} + w_c + \text{terms}`, where ``l_n`` is the item's row of Psi and
``r_n = L' omega_n``: linear in ``Z``, kappa and ``w_c``. Around the means of a fit the log-likelihood is taken as a
quadratic form of these, made of each item's moments of its contexts. Its slope and curvature are averages over the
logits that the fit has, where a Gaussian approximation has its optimum (Opper & Archambeau 2009, *The variational
Gaussian approximation revisited*): of few clicks those at the means say something else. Kappas, each of which meets one
item's events alone, are eliminated by a Schur complement. What is left is a number for ``w_c`` and a matrix for ``Z``,
which is put into the basis in which it is diagonal: that of the eigenvectors where ``K`` is small, and otherwise the
Kronecker product of those of its two factors, as George et al. (2018, *Fast approximate natural gradient descent in a
Kronecker-factored eigenbasis*) have it, which leaves out what is off the diagonal there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from blob_pyro.infer.elbo import Posterior
from blob_pyro.infer.training.workers import Workers
from blob_pyro.infer.weights.logit_moments import expected_click, logit_moments
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.models.operations import unhandled

__all__ = ["MOST_DIMENSIONS", "Basis", "ItemMoments", "diagonal_basis", "item_moments"]

MOST_DIMENSIONS = 32
"""Of more dimensions than this the curvature of ``Z``, a matrix of ``K^4`` numbers, is not formed."""

_MOST_NUMBERS = 1 << 25  # of the items' second moments, 256 MiB
_AT_ONCE = 1 << 22  # numbers of events' outer products, 32 MiB


class ItemMoments(NamedTuple):
    """Sums over each item's events, float64; ``v`` is the variance of a click, ``r`` the whitened interest.

    Attributes:
        variance: of ``v``, ``P``.
        residual: of click less probability, ``P``.
        first: of ``v r``, ``P x K``.
        gradient: of the residual times ``r``, ``P x K``.
        squares: of ``v r_j^2``, ``P x K``.
        second: of ``v r r'``, ``P x K x K``; None where it is too large, or ``K`` is.
        total: of ``v r r'`` over all items, ``K x K``.
    """

    variance: Tensor
    residual: Tensor
    first: Tensor
    gradient: Tensor
    squares: Tensor
    second: Tensor | None
    total: Tensor


@torch.no_grad()
def item_moments(
    model: BanditModel,
    means: dict[str, Tensor],
    batch: BanditBatch | StreamedBatch,
    workers: Workers | None = None,
    posterior: Posterior | None = None,
    rotation: Tensor | None = None,
) -> ItemMoments:
    """Sum over all events, a few at a time, at the means of all sites, or averaged around them.

    Args:
        model: the bandit model.
        means: of each site.
        batch: all events, with rewards; of this worker where there are others.
        workers: who have the other events, where there are some.
        posterior: distribution of each site, over which a click's probability and variance are averaged: None takes
            them at the means.
        rotation: of ``r``, ``K x K``: ``r' rotation`` takes its place.
    """
    num_items, size = model.item_embedding.shape
    rotation = torch.eye(size, dtype=torch.float64, device=batch.interest.device) if rotation is None else rotation
    is_small = size <= MOST_DIMENSIONS and num_items * size**2 <= _MOST_NUMBERS
    shapes = [(num_items,), (num_items,), *[(num_items, size)] * 3, (size, size)]
    sums = [rotation.new_zeros(shape) for shape in shapes]
    second = rotation.new_zeros(num_items, size, size) if is_small else None
    for some in _parts(batch, max(1024, _AT_ONCE // size**2)):
        assert some.reward is not None, "there are clicks to explain"
        probability, variance = _click(model, means, posterior, replace(some, interest_scale=None))
        v, left = variance.unsqueeze(-1), (some.reward - probability).unsqueeze(-1)
        interest = some.interest[some.context] * model.column_norms
        r = (interest @ model.whitening).double() @ rotation
        for total, value in zip(sums, (v[:, 0], left[:, 0], v * r, left * r, v * r.square())):
            total.index_add_(0, some.action, value)
        sums[-1] += r.mT @ (v * r)
        if second is not None:
            second.index_add_(0, some.action, (v * r).unsqueeze(-1) * r.unsqueeze(-2))
    if workers is not None:
        flat = workers.sum(torch.cat([t.flatten() for t in (*sums, *([second] if second is not None else []))]))
        pieces = flat.split([t.numel() for t in sums] + ([second.numel()] if second is not None else []))
        sums = [piece.view_as(total) for piece, total in zip(pieces, sums)]
        second = None if second is None else pieces[-1].view_as(second)
    variance, residual, first, gradient, squares, total = sums
    return ItemMoments(variance, residual, first, gradient, squares, second, total)


def _click(
    model: BanditModel, means: dict[str, Tensor], posterior: Posterior | None, batch: BanditBatch
) -> tuple[Tensor, Tensor]:
    """Each event's click probability, and the slope of it in its logit."""
    if posterior is not None:
        mean, variance = logit_moments(model, means, posterior, batch)
        return expected_click(mean.double(), variance.double())
    with unhandled():
        probability = torch.sigmoid(model.logit(means, batch).double())
    return probability, probability * (1 - probability)


def _parts(batch: BanditBatch | StreamedBatch, size: int) -> Iterator[BanditBatch]:
    for rows in torch.arange(len(batch)).split(size):
        yield batch[rows]


class Basis(NamedTuple):
    """Coordinates of ``K x K`` matrices, in units of a scale of each entry, in which a curvature is diagonal.

    Attributes:
        left: ``K x K``; or, with no ``right``, of whole matrices, ``K^2 x K^2``.
        right: ``K x K``, or None.
        scale: units, ``K x K``.
        curvature: the diagonal, ``K^2``.
    """

    left: Tensor
    right: Tensor | None
    scale: Tensor
    curvature: Tensor

    def form(self, matrix: Tensor) -> Tensor:
        """Return the coordinates of a linear form, ``... x K x K``: ``... x K^2``."""
        return self._turn(matrix * self.scale)

    def point(self, matrix: Tensor) -> Tensor:
        """Return the coordinates of a point, ``... x K x K``: ``... x K^2``."""
        return self._turn(matrix / self.scale)

    def matrix(self, point: Tensor) -> Tensor:
        """Return the point with these coordinates, ``... x K^2``, as ``... x K x K``."""
        if self.right is None:
            flat = point @ self.left.mT
            return flat.view(*point.shape[:-1], *self.scale.shape) * self.scale
        return self.left @ point.view(*point.shape[:-1], *self.scale.shape) @ self.right.mT * self.scale

    def _turn(self, matrix: Tensor) -> Tensor:
        if self.right is None:
            return matrix.flatten(-2) @ self.left
        return (self.left.mT @ matrix @ self.right).flatten(-2)


@torch.no_grad()
def diagonal_basis(
    model: BanditModel,
    means: dict[str, Tensor],
    batch: BanditBatch | StreamedBatch,
    moments: ItemMoments,
    precision: Tensor,
    scale: Tensor,
    workers: Workers | None = None,
    posterior: Posterior | None = None,
) -> Basis:
    """Find coordinates of ``Z`` in which the clicks' curvature, with kappa eliminated, is diagonal.

    Args:
        model: the bandit model.
        means: of each site.
        batch: as for `item_moments`; where these have no second moments it is gone through once more.
        moments: from `item_moments`.
        precision: of each kappa, by clicks and prior, ``P``; infinite where it is known.
        scale: units of ``Z``, ``K x K``.
        workers: as for `item_moments`.
        posterior: as for `item_moments`.
    """
    psi, size = model.item_embedding.double(), model.embedding_dim
    if moments.second is not None:
        centered = moments.second - moments.first.unsqueeze(-1) * (moments.first / precision.unsqueeze(-1)).unsqueeze(
            -2
        )
        outer = (psi.unsqueeze(-1) * psi.unsqueeze(-2)).flatten(1)
        whole = (outer.mT @ centered.flatten(1)).view(4 * (size,)).movedim(2, 1).reshape(2 * (size**2,))
        units = scale.flatten()
        curvature, axes = torch.linalg.eigh(units.unsqueeze(-1) * whole * units)
        return Basis(axes, None, scale, curvature.clamp(min=0))
    square = scale.square()
    rows, columns = (square.mean(dim).sqrt() / square.mean() ** 0.25 for dim in (1, 0))  # of a product that is near
    left = torch.linalg.eigh((psi * rows).mT @ (moments.variance.unsqueeze(-1) * psi * rows))[1]
    right = torch.linalg.eigh(columns.unsqueeze(-1) * moments.total * columns)[1]
    turned = item_moments(model, means, batch, workers, posterior, columns.unsqueeze(-1) * right)
    own = turned.squares - turned.first.square() / precision.unsqueeze(-1)
    curvature = ((psi * rows) @ left).square().mT @ own
    return Basis(left, right, scale, curvature.clamp(min=0).flatten())
