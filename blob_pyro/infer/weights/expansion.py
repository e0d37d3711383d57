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

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from blob_pyro.infer.elbo import Posterior
from blob_pyro.infer.training.workers import Workers
from blob_pyro.infer.weights.logit_moments import expected_click, logit_moments
from blob_pyro.models import BanditBatch, BanditModel, StreamedBatch
from blob_pyro.models.operations import unhandled

__all__ = [
    "ITEMS_AT_ONCE",
    "MOST_DIMENSIONS",
    "MOST_NUMBERS",
    "Basis",
    "ItemMoments",
    "diagonal_basis",
    "item_moments",
    "of_item_rows",
]

MOST_DIMENSIONS = 64  # 13 s of a core for the eigenvectors of K^2 x K^2 numbers; 20 take none
"""Of more dimensions than this the curvature of ``Z``, a matrix of ``K^4`` numbers, is not formed."""

ITEMS_AT_ONCE = 1 << 16
"""Rows of items that are held in float64 at a time."""

MOST_NUMBERS = 1 << 26  # of the items' second moments, 512 MiB
_AT_ONCE = 1 << 22  # numbers of events' outer products, 32 MiB


class ItemMoments(NamedTuple):
    """Sums over each item's events, float64; ``v`` is the variance of a click, ``r`` the whitened interest.

    Attributes:
        variance: of ``v``, ``P``.
        residual: of click less probability, ``P``.
        first: of ``v r``, ``P x K``.
        gradient: of the residual times ``l r'`` over all items, ``K x K``.
        squares: of ``v l_i^2 r_j^2`` over all items, ``K x K``.
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
    rotations: tuple[Tensor, Tensor] | None = None,
) -> ItemMoments:
    """Sum over all events, a few at a time, at the means of all sites, or averaged around them.

    Args:
        model: the bandit model.
        means: of each site.
        batch: all events, with rewards; of this worker where there are others.
        workers: who have the other events, where there are some.
        posterior: distribution of each site, over which a click's probability and variance are averaged: None takes
            them at the means.
        rotations: of ``l`` and of ``r``, ``K x K``: ``l' rotation`` and ``r' rotation`` take their places.
    """
    num_items, size = model.item_embedding.shape
    like = torch.empty(0, dtype=torch.float64, device=batch.interest.device)
    is_small = size <= MOST_DIMENSIONS and num_items * size**2 <= MOST_NUMBERS
    shapes = [(num_items,), (num_items,), (num_items, size), *[(size, size)] * 3]
    sums = variance, residual, first, gradient, squares, total = [like.new_zeros(shape) for shape in shapes]
    second = like.new_zeros(num_items, size, size) if is_small else None
    for some in _parts(batch, max(1024, _AT_ONCE // size**2)):
        assert some.reward is not None, "there are clicks to explain"
        probability, slope = _click(model, means, posterior, replace(some, interest_scale=None))
        v, left = slope.unsqueeze(-1), (some.reward - probability).unsqueeze(-1)
        interest = some.interest[some.context] * model.column_norms
        item, r = model.item_embedding[some.action].double(), (interest @ model.whitening).double()
        if rotations is not None:
            item, r = item @ rotations[0], r @ rotations[1]
        for of_items, value in ((variance, slope), (residual, left[:, 0]), (first, v * r)):
            of_items.index_add_(0, some.action, value)
        gradient += item.mT @ (left * r)
        squares += item.square().mT @ (v * r.square())
        total += r.mT @ (v * r)
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


def of_item_rows(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Add up what a function makes of some items' rows, in float64, many but not all at a time.

    Args:
        function: of as many tensors.
        rows: of all items, ``P x ...`` each.

    Returns:
        The sum, float64, of the shape that the function returns.
    """
    parts = zip(*(tensor.split(ITEMS_AT_ONCE) for tensor in rows))
    return torch.stack([function(*(tensor.double() for tensor in some)) for some in parts]).sum(0)


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
    if moments.second is not None:
        psi, size = model.item_embedding.double(), model.embedding_dim
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
    metric = of_item_rows(lambda psi, v: psi.mT @ (v * psi), model.item_embedding, moments.variance.unsqueeze(-1))
    left = torch.linalg.eigh(rows.unsqueeze(-1) * metric * rows)[1]
    right = torch.linalg.eigh(columns.unsqueeze(-1) * moments.total * columns)[1]
    turns = rows.unsqueeze(-1) * left, columns.unsqueeze(-1) * right
    turned = item_moments(model, means, batch, workers, posterior, turns)
    shared = of_item_rows(
        lambda psi, first, by: (psi @ turns[0]).square().mT @ (first.square() / by),
        model.item_embedding, turned.first, precision.unsqueeze(-1),
    )  # fmt: skip
    curvature = turned.squares - shared
    return Basis(left, right, scale, curvature.clamp(min=0).flatten())
