"""A precision matrix in the shape of an arrowhead: a few numbers coupled to all, many coupled to those few alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blob_pyro.distributions import ArrowheadNormal

__all__ = ["ArrowheadPrecision"]


@dataclass(frozen=True)
class ArrowheadPrecision:
    """``[[shared, cross'], [cross, diag(own)]]``, solved by eliminating the ``M`` item parameters (a Schur complement).

    Attributes:
        shared: ``S x S``.
        cross: ``M x S``.
        own: ``M``.
    """

    shared: Tensor
    cross: Tensor
    own: Tensor

    @classmethod
    def of(cls, distribution: ArrowheadNormal) -> ArrowheadPrecision:
        """Invert a Gaussian's covariance."""
        own = distribution.scale.square().reciprocal()
        inverse = torch.linalg.solve_triangular(
            distribution.shared_scale_tril, torch.eye(distribution.num_shared).to(own), upper=False
        )
        slope = distribution.loading @ inverse  # of the item parameters on the shared ones
        weighted = own.unsqueeze(-1) * slope
        return cls(inverse.mT @ inverse + slope.mT @ weighted, -weighted, own)

    def __add__(self, other: ArrowheadPrecision) -> ArrowheadPrecision:
        return ArrowheadPrecision(self.shared + other.shared, self.cross + other.cross, self.own + other.own)

    def damped(self, damping: float) -> ArrowheadPrecision:
        """Return the matrix with its diagonal enlarged by a fraction of itself."""
        return replace(self, shared=self.shared + damping * self.shared.diagonal().diag(), own=(1 + damping) * self.own)

    def conditional(self, index: int) -> ArrowheadPrecision:
        """Return the precision of the other parameters given a shared one, whose own entry is set to 1."""
        shared, cross = self.shared.clone(), self.cross.clone()
        shared[index], shared[:, index], cross[:, index] = 0, 0, 0
        shared[index, index] = 1
        return replace(self, shared=shared, cross=cross)

    def factor(self) -> Tensor | None:
        """Factor the shared block with the item parameters eliminated, by Cholesky; None if not positive definite."""
        if not (self.own > 0).all():
            return None
        factor, info = torch.linalg.cholesky_ex(self.shared - self.cross.mT @ (self.cross / self.own.unsqueeze(-1)))
        return None if int(info) else factor

    def log_det(self) -> float | None:
        """Return the log-determinant, or None where the matrix is not positive definite."""
        factor = self.factor()
        return None if factor is None else float(2 * factor.diagonal().log().sum() + self.own.log().sum())

    def solve(self, right: Tensor) -> Tensor | None:
        """Solve for ``precision^-1 right``, ``S + M``; None where it is not positive definite."""
        factor = self.factor()
        if factor is None:
            return None
        shared, own = right.split([len(self.shared), len(self.own)])
        reduced = shared - self.cross.mT @ (own / self.own)
        solution = torch.cholesky_solve(reduced.unsqueeze(-1), factor).squeeze(-1)
        return torch.cat([solution, (own - self.cross @ solution) / self.own])

    def normal(self, loc: Tensor) -> ArrowheadNormal | None:
        """Return the Gaussian with this precision; None where it is not positive definite."""
        factor = self.factor()
        if factor is None:
            return None
        shared = torch.linalg.cholesky(torch.cholesky_inverse(factor))
        loading = -(self.cross @ shared) / self.own.unsqueeze(-1)
        return ArrowheadNormal(loc, shared, loading, self.own.rsqrt(), validate_args=False)
