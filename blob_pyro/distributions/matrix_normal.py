"""The matrix normal distribution, and its Kullback-Leibler divergences."""

from __future__ import annotations

import math

import torch
from pyro.distributions import Independent, Normal, TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import constraints, register_kl
from torch.distributions.utils import _standard_normal

__all__ = ["MatrixNormal", "whiten"]


class MatrixNormal(TorchDistribution):
    r"""A Gaussian matrix whose rows and columns are correlated separately: the prior of Sakhi et al. 2020, section 3.2.

    ``X ~ MN(M, U, V)`` has ``vec(X) ~ N(vec(M), V (x) U)`` with row covariance ``U = A A'`` (``n x n``) and column
    covariance ``V = B B'`` (``m x m``): ``X = M + A Z B'`` for a standard normal ``Z``.

    Args:
        loc: ``M``, ``... x n x m``.
        row_scale_tril: lower-triangular ``A``, ``... x n x n``.
        column_scale_tril: lower-triangular ``B``, ``... x m x m``.

    Raises:
        ValueError: if the shapes do not match, or a factor is not lower triangular with a positive diagonal.

    Example:
        >>> d = MatrixNormal(torch.zeros(2, 3), torch.eye(2), 2 * torch.eye(3))
        >>> d.variance
        tensor([[4., 4., 4.],
                [4., 4., 4.]])
    """

    arg_constraints = {  # noqa: RUF012 - torch's own convention
        "loc": constraints.independent(constraints.real, 2),
        "row_scale_tril": constraints.lower_cholesky,
        "column_scale_tril": constraints.lower_cholesky,
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self, loc: Tensor, row_scale_tril: Tensor, column_scale_tril: Tensor, validate_args: bool | None = None
    ) -> None:
        n, m = loc.shape[-2:]
        for name, factor, size in (("row", row_scale_tril, n), ("column", column_scale_tril, m)):
            if factor.shape[-2:] != (size, size):
                raise ValueError(
                    f"{name}_scale_tril: expected ... x {size} x {size} for a loc of {tuple(loc.shape)}, "
                    f"got {tuple(factor.shape)}"
                )
        batch_shape = torch.broadcast_shapes(loc.shape[:-2], row_scale_tril.shape[:-2], column_scale_tril.shape[:-2])
        self.loc = loc.expand(*batch_shape, n, m)
        self.row_scale_tril = row_scale_tril.expand(*batch_shape, n, n)
        self.column_scale_tril = column_scale_tril.expand(*batch_shape, m, m)
        super().__init__(batch_shape, Size((n, m)), validate_args=validate_args)

    @classmethod
    def from_scales(cls, loc: Tensor, row_scale: Tensor, column_scale: Tensor) -> MatrixNormal:
        """Make ``MN(loc, diag(row_scale^2), diag(column_scale^2))``: entries independent, variances of rank one."""
        return cls(loc, row_scale.diag_embed(), column_scale.diag_embed())

    @classmethod
    def standard(cls, loc: Tensor) -> MatrixNormal:
        """Make ``MN(loc, I, I)``."""
        n, m = loc.shape[-2:]
        row, column = (torch.eye(size, dtype=loc.dtype, device=loc.device) for size in (n, m))
        return cls(loc, row, column, validate_args=False)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> MatrixNormal:
        """Return the same distribution with another batch shape; see `pyro.distributions.TorchDistribution.expand`."""
        shape = torch.Size(batch_shape)
        return MatrixNormal(
            self.loc.expand(shape + self.event_shape),
            self.row_scale_tril.expand(*shape, -1, -1),
            self.column_scale_tril.expand(*shape, -1, -1),
            validate_args=False,
        )

    def rsample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draw reparameterised values, ``sample_shape x batch_shape x n x m``."""
        z = _standard_normal(self._extended_shape(Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.row_scale_tril @ z @ self.column_scale_tril.mT

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        n, m = self.event_shape
        whitened = whiten(value - self.loc, self)
        log_prob: Tensor = (
            -0.5 * (whitened.square().sum((-2, -1)) + n * m * math.log(2 * math.pi)) - 0.5 * self._log_det
        )
        return log_prob

    @property
    def _log_det(self) -> Tensor:
        """Log-determinant of the Kronecker covariance."""
        n, m = self.event_shape
        result: Tensor = 2 * (m * _log_diagonal(self.row_scale_tril) + n * _log_diagonal(self.column_scale_tril))
        return result

    @property
    def mean(self) -> Tensor:
        """The mean, which is ``loc``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, ``batch_shape x n x m``."""
        rows = self.row_scale_tril.square().sum(-1)
        columns = self.column_scale_tril.square().sum(-1)
        return rows.unsqueeze(-1) * columns.unsqueeze(-2)

    @property
    def precision_diagonal(self) -> Tensor:
        """The diagonal of the inverse of the Kronecker covariance, ``batch_shape x n x m``."""
        rows = torch.cholesky_inverse(self.row_scale_tril).diagonal(dim1=-2, dim2=-1)
        columns = torch.cholesky_inverse(self.column_scale_tril).diagonal(dim1=-2, dim2=-1)
        return rows.unsqueeze(-1) * columns.unsqueeze(-2)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, ``batch_shape``."""
        n, m = self.event_shape
        entropy: Tensor = 0.5 * (n * m * (1 + math.log(2 * math.pi)) + self._log_det)
        return entropy


def _log_diagonal(tril: Tensor) -> Tensor:
    return tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def whiten(x: Tensor, p: MatrixNormal) -> Tensor:
    """Compute ``A^-1 X B^-T`` for deviations ``X`` (``... x n x m``) from ``p``'s mean: standard normal under it."""
    left = torch.linalg.solve_triangular(p.row_scale_tril, x, upper=False)
    result: Tensor = torch.linalg.solve_triangular(p.column_scale_tril, left.mT, upper=False).mT
    return result


@register_kl(MatrixNormal, MatrixNormal)
def _kl_matrix_normal(q: MatrixNormal, p: MatrixNormal) -> Tensor:
    n, m = q.event_shape
    rows = torch.linalg.solve_triangular(p.row_scale_tril, q.row_scale_tril, upper=False).square().sum((-2, -1))
    columns = (
        torch.linalg.solve_triangular(p.column_scale_tril, q.column_scale_tril, upper=False).square().sum((-2, -1))
    )
    shift = whiten(q.loc - p.loc, p).square().sum((-2, -1))
    divergence: Tensor = 0.5 * (rows * columns + shift - n * m + p._log_det - q._log_det)
    return divergence


@register_kl(Independent, MatrixNormal)
def _kl_independent_matrix_normal(q: Independent, p: MatrixNormal) -> Tensor:
    """A matrix of independent normals (the paper's NQ) against a matrix normal."""
    if not (isinstance(q.base_dist, Normal) and q.reinterpreted_batch_ndims == 2):
        raise NotImplementedError(f"no closed form of KL({q} || {p})")  # an ELBO then samples it
    n, m = p.event_shape
    loc, variance = q.base_dist.loc, q.base_dist.variance
    trace = (p.precision_diagonal * variance).sum((-2, -1))
    shift = whiten(loc - p.loc, p).square().sum((-2, -1))
    divergence: Tensor = 0.5 * (trace + shift - n * m + p._log_det - variance.log().sum((-2, -1)))
    return divergence


@register_kl(MatrixNormal, Independent)
def _kl_matrix_normal_independent(q: MatrixNormal, p: Independent) -> Tensor:
    """A matrix normal against independent normals."""
    if not (isinstance(p.base_dist, Normal) and p.reinterpreted_batch_ndims == 2):
        raise NotImplementedError(f"no closed form of KL({q} || {p})")  # an ELBO then samples it
    n, m = q.event_shape
    loc, variance = p.base_dist.loc, p.base_dist.variance
    quadratic = ((q.variance + (q.loc - loc).square()) / variance).sum((-2, -1))
    divergence: Tensor = 0.5 * (quadratic - n * m + variance.log().sum((-2, -1)) - q._log_det)
    return divergence
