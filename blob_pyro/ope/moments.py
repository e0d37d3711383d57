"""An estimate as a smooth function of averages over rows: one form for its value, standard error and bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    r"""``value = combine(averages of the columns)``.

    IPS is the average of ``w r``; SNIPS the ratio of two averages; beta-IPS a function of four. The influence of row
    ``n`` on the value is, by the delta method, :math:`\psi_n = \nabla f(\bar m)^\top (m_n - \bar m)`.

    Args:
        columns: ``k`` tensors of ``N`` numbers.
        combine: from ``... x k`` averages to ``...`` values.
        influence: ``N`` influences, where they are not those of the delta method.
        is_mean: the value is an average of one term per row, whose variance has the divisor ``N - 1``.
    """

    columns: Sequence[Tensor]
    combine: Callable[[Tensor], Tensor]
    influence: Tensor | None = None
    is_mean: bool = False

    @classmethod
    def mean(cls, terms: Tensor) -> Moments:
        """Return the average of one column."""
        return cls([terms], lambda m: m[..., 0], is_mean=True)

    @classmethod
    def ratio(cls, numerator: Tensor, denominator: Tensor) -> Moments:
        """Return the ratio of two averages."""
        return cls([numerator, denominator], lambda m: m[..., 0] / m[..., 1])

    @property
    def num_rows(self) -> int:
        """The number of rows, ``N``."""
        return self.columns[0].shape[0]

    def value(self) -> Tensor:
        """Return the estimate, with the gradient of whatever the columns were computed from."""
        return self.combine(torch.stack([column.mean() for column in self.columns]))

    def detach(self) -> Moments:
        """Return the same numbers without their history."""
        influence = None if self.influence is None else self.influence.detach()
        return Moments([column.detach() for column in self.columns], self.combine, influence, self.is_mean)

    def influences(self) -> Tensor:
        """Return ``N`` influences that sum to zero; call on detached moments."""
        if self.influence is not None:
            return self.influence - self.influence.mean()
        means = torch.stack([column.mean() for column in self.columns])
        with torch.enable_grad():
            at = means.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.combine(at), at)
        total = torch.zeros_like(self.columns[0])
        for column, mean, slope in zip(self.columns, means, gradient):
            total.add_((column - mean) * slope)
        return total

    def standard_error(self, groups: Tensor | None = None, num_groups: int = 0) -> float:
        r"""Compute ``sqrt(sum psi^2) / N``; of ``G`` groups, the like with sums by group and ``G / (G - 1)``.

        NaN where there is one row, or one group, alone: nothing is known of the spread.
        """
        psi, rows = self.influences(), self.num_rows
        units, factor = rows, 1.0
        if groups is not None:
            psi = torch.zeros(num_groups, dtype=psi.dtype, device=psi.device).index_add_(0, groups, psi)
            units = num_groups
        if units < 2:
            return float("nan")
        if groups is not None or self.is_mean:
            factor = units / (units - 1)
        return float((factor * psi.square().sum()).sqrt() / rows)

    def unit_sums(self, groups: Tensor | None, num_groups: int) -> tuple[Tensor, Tensor]:
        """Sum the columns over each group (each row by itself without groups); returns the rows of each, too."""
        columns = torch.stack(list(self.columns), -1)
        if groups is None:
            return columns, torch.ones(len(columns), dtype=columns.dtype, device=columns.device)
        sums = torch.zeros(num_groups, columns.shape[-1], dtype=columns.dtype, device=columns.device)
        return sums.index_add_(0, groups, columns), torch.bincount(groups, minlength=num_groups).to(columns.dtype)
