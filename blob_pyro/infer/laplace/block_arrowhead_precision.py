"""A precision matrix in the shape of an arrowhead with blocks: what items share, and several numbers of each item."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blob_pyro.distributions import BlockArrowheadNormal
from blob_pyro.distributions.block_arrowhead_normal import from_blocks, to_blocks

__all__ = ["BlockArrowheadPrecision"]


@dataclass(frozen=True)
class BlockArrowheadPrecision:
    """An `ArrowheadPrecision` with a ``B x B`` block for each item in place of a number.

    Attributes:
        shared: ``S x S``.
        cross: ``P x B x S``.
        own: ``P x B x B``.
        widths: see `blob_pyro.distributions.BlockArrowheadNormal`.
    """

    shared: Tensor
    cross: Tensor
    own: Tensor
    widths: tuple[int, ...]

    @classmethod
    def of(cls, distribution: BlockArrowheadNormal) -> BlockArrowheadPrecision:
        """Invert a covariance."""
        own = torch.cholesky_inverse(distribution.own_scale_tril)
        tril = distribution.shared_scale_tril
        inverse = torch.linalg.solve_triangular(tril, torch.eye(distribution.num_shared).to(own), upper=False)
        slope = distribution.loading @ inverse
        weighted = own @ slope
        return cls(inverse.mT @ inverse + (slope.mT @ weighted).sum(0), -weighted, own, distribution.widths)

    def __add__(self, other: BlockArrowheadPrecision) -> BlockArrowheadPrecision:
        return replace(
            self, shared=self.shared + other.shared, cross=self.cross + other.cross, own=self.own + other.own
        )

    def damped(self, damping: float) -> BlockArrowheadPrecision:
        """Return it with its diagonal enlarged by a fraction of itself."""
        shared, own = (m + damping * m.diagonal(dim1=-2, dim2=-1).diag_embed() for m in (self.shared, self.own))
        return replace(self, shared=shared, own=own)

    def conditional(self, index: int) -> BlockArrowheadPrecision:
        """Return the precision of the other parameters given a shared one, whose own entry is set to 1."""
        shared, cross = self.shared.clone(), self.cross.clone()
        shared[index], shared[:, index], cross[..., index] = 0, 0, 0
        shared[index, index] = 1
        return replace(self, shared=shared, cross=cross)

    def _factors(self) -> tuple[Tensor, Tensor] | None:
        """Cholesky factors of the shared block with the others eliminated, and of these; None if not definite."""
        own, info = torch.linalg.cholesky_ex(self.own)
        if bool(info.any()):
            return None
        factor, failed = torch.linalg.cholesky_ex(
            self.shared - (self.cross.mT @ torch.cholesky_solve(self.cross, own)).sum(0)
        )
        return None if int(failed) else (factor, own)

    def factor(self) -> Tensor | None:
        """Return the Cholesky factor of the shared block with the others eliminated; None if not positive definite."""
        found = self._factors()
        return None if found is None else found[0]

    def log_det(self) -> float | None:
        """Return the log-determinant, or None where it is not positive definite."""
        found = self._factors()
        if found is None:
            return None
        return float(sum(2 * f.diagonal(dim1=-2, dim2=-1).log().sum() for f in found))

    def solve(self, right: Tensor) -> Tensor | None:
        """Solve for ``precision^-1 right``, ``S + P B``; None where it is not positive definite."""
        found = self._factors()
        if found is None:
            return None
        factor, tril = found
        shared = right[: len(self.shared)]
        own = to_blocks(right[len(self.shared) :], len(self.own), self.widths).unsqueeze(-1)
        reduced = shared - (self.cross.mT @ torch.cholesky_solve(own, tril)).sum(0).squeeze(-1)
        solution = torch.cholesky_solve(reduced.unsqueeze(-1), factor)
        blocks = torch.cholesky_solve(own - self.cross @ solution, tril).squeeze(-1)
        return torch.cat([solution.squeeze(-1), from_blocks(blocks, self.widths)])

    def normal(self, loc: Tensor) -> BlockArrowheadNormal | None:
        """Return the Gaussian with this precision; None where it is not positive definite."""
        found = self._factors()
        if found is None:
            return None
        factor, tril = found
        shared = torch.linalg.cholesky(torch.cholesky_inverse(factor))
        loading = -torch.cholesky_solve(self.cross, tril) @ shared
        own = torch.linalg.cholesky(torch.cholesky_inverse(tril))
        return BlockArrowheadNormal(loc, shared, loading, own, self.widths, validate_args=False)
