"""Encoders: from a view history to a Gaussian over its latent interest.

The contract, for your own: an ``nn.Module`` whose ``forward`` takes `Histories` (``N`` of them, some perhaps empty) and
returns ``loc`` (``N x K``) and ``scale``: standard deviations (``N x K``, positive) or, for a full covariance, the
lower triangular factor ``L`` of ``L L'`` (``N x K x K``, positive on the diagonal). Sum rows of weights over views with
`Histories.sum_rows`, and no ``N x P`` matrix is ever formed. All parameters are created in the constructor, so that a
saved model loads into a fresh one; a ``reset_parameters`` method, if there is one, gives every fit a fresh start.
``item_tables`` names the parameters with a row for each item, so that new items can be given rows.

Example:
    >>> from blob_pyro import BLO
    >>> class AverageEncoder(nn.Module):
    ...     def __init__(self, num_items, embedding_dim):
    ...         super().__init__()
    ...         self.item = nn.Parameter(0.1 * torch.randn(num_items, embedding_dim))
    ...         self.log_scale = nn.Parameter(torch.zeros(embedding_dim))
    ...     def forward(self, histories):
    ...         loc = histories.sum_rows(self.item) / histories.lengths.clamp(min=1).unsqueeze(-1)
    ...         return loc, self.log_scale.exp().expand_as(loc)
    >>> blo = BLO(num_items=50, embedding_dim=4, encoder=AverageEncoder(50, 4))
    >>> trace = blo.fit(Histories.from_sequences([[3, 3, 7], [7, 9]], num_items=50), num_epochs=2, progress=False)
    >>> blo.user_posterior([[3, 3, 7], []]).batch_shape
    torch.Size([2])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from blob_pyro.data import Histories
from blob_pyro.ops.item_tables import holder_of, num_rows, rows_of, sums_of_rows
from blob_pyro.ops.precision import scale_tril_from_precision
from blob_pyro.ops.selection import distinct

__all__ = ["ENCODERS", "Covariance", "DeepEncoder", "LinearEncoder", "PrecisionEncoder"]

Covariance = Literal["diagonal", "full"]


class EncoderClass(Protocol):
    """A recipe by which `blob_pyro.BLO` makes an encoder that it is given by name."""

    def __call__(
        self, num_items: int, embedding_dim: int, *, covariance: Covariance = "diagonal", sparse: bool = False
    ) -> nn.Module: ...


class _Encoder(nn.Module):
    """What the encoders here share: sizes, the kind of covariance, sums over views.

    Args:
        num_items: ``P``.
        embedding_dim: ``K``.
        covariance: "diagonal" or "full".
        sparse: give the tables of item rows sparse gradients, so that a step touches the rows of its own views only.
    """

    def __init__(
        self, num_items: int, embedding_dim: int, *, covariance: Covariance = "diagonal", sparse: bool = False
    ) -> None:
        super().__init__()
        if covariance not in ("diagonal", "full"):
            raise ValueError(f"covariance: expected 'diagonal' or 'full', got {covariance!r}")
        self.embedding_dim = embedding_dim
        self.covariance = covariance
        self.sparse = sparse
        self.num_below = embedding_dim * (embedding_dim - 1) // 2 if covariance == "full" else 0

    item_tables: tuple[str, ...]
    """The parameters with a row for each item."""

    def scale(self, precision: Tensor, lower: Tensor | None) -> Tensor:
        """Standard deviations, or the factor ``diag(scale) (I + lower)`` of a full covariance."""
        scale = precision.rsqrt()
        if lower is None:
            return scale
        factor = torch.eye(self.embedding_dim, dtype=scale.dtype, device=scale.device).repeat(len(scale), 1, 1)
        row, column = torch.tril_indices(self.embedding_dim, self.embedding_dim, offset=-1, device=scale.device)
        factor[:, row, column] = lower
        return scale.unsqueeze(-1) * factor


class LinearEncoder(_Encoder):
    """Sums one embedding row per view (Sakhi et al. 2020, section 4.1).

    ``loc = h W + b`` and ``precision = 1 + softplus(h V + c)`` for view counts ``h``, with weights of its own for
    each (the published code shares them). An empty history gets the bias. With a full covariance, whose factor is
    ``diag(precision^-1/2) (I + lower(h U + d))``, there is a third table ``U``.

    Args:
        num_items: ``P``.
        embedding_dim: ``K``.
        covariance: "diagonal" or "full".
        sparse: whether the tables get sparse gradients.
    """

    def __init__(
        self, num_items: int, embedding_dim: int, *, covariance: Covariance = "diagonal", sparse: bool = False
    ) -> None:
        super().__init__(num_items, embedding_dim, covariance=covariance, sparse=sparse)
        self.loc_weight = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.loc_bias = nn.Parameter(torch.empty(embedding_dim))
        self.precision_weight = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.precision_bias = nn.Parameter(torch.empty(embedding_dim))
        if self.num_below:
            self.below_weight = nn.Parameter(torch.empty(num_items, self.num_below))
            self.below_bias = nn.Parameter(torch.empty(self.num_below))
        self.item_tables = ("loc_weight", "precision_weight", *(("below_weight",) if self.num_below else ()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh start, close to the prior."""
        nn.init.normal_(self.loc_weight, std=0.1)
        nn.init.constant_(self.precision_bias, -2.0)
        zero = [self.loc_bias, self.precision_weight]
        for parameter in zero + ([self.below_weight, self.below_bias] if self.num_below else []):
            nn.init.zeros_(parameter)

    def forward(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Return ``loc`` (``N x K``) and ``scale`` (``N x K``, or ``N x K x K`` for a full covariance)."""
        views = _Views(histories, self.sparse)
        loc = views.sum(self.loc_weight) + self.loc_bias
        precision = 1 + softplus(views.sum(self.precision_weight) + self.precision_bias)
        lower = views.sum(self.below_weight) + self.below_bias if self.num_below else None
        return loc, self.scale(precision, lower)


class DeepEncoder(_Encoder):
    """The published deep encoder: ``P`` inputs, three layers of ``K`` rectifiers (Sakhi et al. 2020, section 4.1).

    ``x = relu(A2 relu(A1 relu(h W + b)))`` for view counts ``h``; ``loc`` is linear in ``x``, and the precision is one
    plus the softplus of what is linear in ``x``. The first layer is a sum of one row of ``W`` per view.

    Args:
        num_items: ``P``.
        embedding_dim: ``K``, of the interest and of the layers.
        covariance: "diagonal" or "full".
        sparse: whether the first layer gets sparse gradients.
    """

    def __init__(
        self, num_items: int, embedding_dim: int, *, covariance: Covariance = "diagonal", sparse: bool = False
    ) -> None:
        super().__init__(num_items, embedding_dim, covariance=covariance, sparse=sparse)
        self.item_weight = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.item_bias = nn.Parameter(torch.empty(embedding_dim))
        self.layers = nn.ModuleList(nn.Linear(embedding_dim, embedding_dim) for _ in range(2))
        self.loc = nn.Linear(embedding_dim, embedding_dim)
        self.precision = nn.Linear(embedding_dim, embedding_dim)
        self.below = nn.Linear(embedding_dim, self.num_below) if self.num_below else None
        self.item_tables = ("item_weight",)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh start: rectifiers half of which are on, uncertainty as in the prior."""
        nn.init.normal_(self.item_weight, std=0.1)
        nn.init.zeros_(self.item_bias)
        for layer in [*self.layers, self.loc, self.precision, *([self.below] if self.below is not None else [])]:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.precision.bias, -2.0)

    def forward(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Return ``loc`` (``N x K``) and ``scale`` (``N x K``, or ``N x K x K`` for a full covariance)."""
        hidden = torch.relu(_Views(histories, self.sparse).sum(self.item_weight) + self.item_bias)
        for layer in self.layers:
            hidden = torch.relu(layer(hidden))
        lower = None if self.below is None else self.below(hidden)
        return self.loc(hidden), self.scale(1 + softplus(self.precision(hidden)), lower)


class PrecisionEncoder(_Encoder):
    """Every view adds evidence: precisions add up, and the mean is weighted by them.

    ``loc = (h W + b) / (1 + T softplus(l))`` and ``precision = 1 + h softplus(V)`` for view counts ``h`` that sum
    to ``T``: the form of a Gaussian posterior after ``T`` observations, which a linear encoder cannot take (its
    mean grows without bound in ``T``).

    With a full covariance ``precision = I + diag(h softplus(V)) + sum_t E_{v_t}' E_{v_t}``, the form that EM's
    precision has, and ``loc = precision^-1 (h W + b)``.

    Args:
        num_items: ``P``.
        embedding_dim: ``K``.
        covariance: "diagonal" or "full".
        sparse: whether the tables get sparse gradients.
    """

    def __init__(
        self, num_items: int, embedding_dim: int, *, covariance: Covariance = "diagonal", sparse: bool = False
    ) -> None:
        super().__init__(num_items, embedding_dim, covariance=covariance, sparse=sparse)
        self.weight = nn.Parameter(torch.empty(num_items, embedding_dim))
        self.bias = nn.Parameter(torch.empty(embedding_dim))
        self.evidence = nn.Parameter(torch.empty(num_items, embedding_dim))
        if covariance == "full":
            self.direction = nn.Parameter(torch.empty(num_items, embedding_dim))
        else:
            self.shrinkage = nn.Parameter(torch.empty(embedding_dim))
        self.item_tables = ("weight", "evidence", *(("direction",) if covariance == "full" else ()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a fresh start, close to the prior."""
        nn.init.normal_(self.weight, std=0.1)
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.evidence, -2.0)
        if self.covariance == "full":
            nn.init.normal_(self.direction, std=0.1)
        else:
            nn.init.constant_(self.shrinkage, -2.0)

    def forward(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Return ``loc`` (``N x K``) and ``scale`` (``N x K``, or ``N x K x K`` for a full covariance)."""
        views = _Views(histories, self.sparse)
        sums = views.sum(self.weight, self.evidence, function=_mean_and_precision)
        total, precision = sums[:, : self.embedding_dim] + self.bias, 1 + sums[:, self.embedding_dim :]
        if self.covariance == "full":
            outer = views.sum(self.direction, function=_outer_product).view(-1, self.embedding_dim, self.embedding_dim)
            # Whoever makes a distribution of it checks, or looks at the loss, as training does.
            scale_tril = scale_tril_from_precision(precision.diag_embed() + outer, check=False)
            return (scale_tril @ (scale_tril.mT @ total.unsqueeze(-1))).squeeze(-1), scale_tril
        length = histories.lengths.unsqueeze(-1)
        return total / (1 + length * softplus(self.shrinkage)), precision.rsqrt()


ENCODERS: dict[str, EncoderClass] = {
    "linear": LinearEncoder,
    "precision": PrecisionEncoder,
    "deep": DeepEncoder,
}


class _Views:
    """The views of all histories one after another, for several sums over the same ones."""

    def __init__(self, histories: Histories, sparse: bool) -> None:
        self.items, _ = histories.flatten()
        self.first = histories.lengths.cumsum(0) - histories.lengths
        self.sparse = sparse

    def sum(self, *tables: Tensor, function: Callable[..., Tensor] | None = None) -> Tensor:
        """Sum over each history's views of one row of a table, or of a row-wise function of tables, ``N x D``."""
        items, sparse = self.items, self.sparse
        if function is None:
            return sums_of_rows(tables[0], items, self.first, sparse=sparse)
        is_part = holder_of(tables[0]) is not None
        if sparse or is_part or num_rows(tables[0]) > items.shape[0]:  # each distinct row once, and no other
            own, items, _ = distinct(items, num_rows(tables[0]))
            tables = tuple(rows_of(table, own, sparse=sparse) for table in tables)
        return sums_of_rows(function(*tables), items, self.first)


def _mean_and_precision(weight: Tensor, evidence: Tensor) -> Tensor:
    return torch.cat([weight, softplus(evidence)], -1)


def _outer_product(rows: Tensor) -> Tensor:
    return (rows.unsqueeze(-1) * rows.unsqueeze(-2)).flatten(-2)
