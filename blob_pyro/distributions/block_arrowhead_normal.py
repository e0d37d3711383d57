"""An arrowhead normal whose independent parts are blocks: several numbers of an item, correlated with one another."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor

__all__ = ["BlockArrowheadNormal"]


class BlockArrowheadNormal(TorchDistribution):
    r"""A few shared variables, and blocks of ``B`` that are independent of one another given them.

    ``shared = loc[:S] + L z`` and ``block_p = loc_p + loading_p z + T_p e_p`` for standard normal ``z`` and ``e``.
    After the ``S`` shared numbers the vector holds, for each width ``w``, ``w`` numbers of each of ``P`` blocks: an
    array ``P x w``, flattened. For items with ``K`` deviations and one kappa, ``widths=(K, 1)``, it costs
    ``S^2 + P B (S + B)`` numbers where a Cholesky factor costs ``(S + P B)^2 / 2``.

    Args:
        loc: ``S + P B``.
        shared_scale_tril: lower-triangular ``L``, ``S x S``.
        loading: ``P x B x S``.
        own_scale_tril: lower-triangular ``T``, ``P x B x B``.
        widths: how many numbers of a block are side by side in each array; they sum to ``B``.

    Raises:
        ValueError: if the shapes do not match.

    Example:
        >>> own = torch.eye(2).expand(2, 2, 2)
        >>> d = BlockArrowheadNormal(torch.zeros(5), torch.eye(1), torch.ones(2, 2, 1), own, (1, 1))
        >>> d.covariance_matrix[1]  # numbers 1 and 3 are of one block
        tensor([1., 2., 1., 1., 1.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "shared_scale_tril": constraints.lower_cholesky,
        "loading": constraints.independent(constraints.real, 3),
        "own_scale_tril": constraints.independent(constraints.lower_cholesky, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        shared_scale_tril: Tensor,
        loading: Tensor,
        own_scale_tril: Tensor,
        widths: tuple[int, ...],
        validate_args: bool | None = None,
    ) -> None:
        num_blocks, size, num_shared = loading.shape
        expected = ((num_shared + num_blocks * size,), (num_shared, num_shared), (num_blocks, size, size))
        shapes = tuple(tuple(t.shape) for t in (loc, shared_scale_tril, own_scale_tril))
        if shapes != expected or sum(widths) != size:
            raise ValueError(
                f"BlockArrowheadNormal: for a loading of {tuple(loading.shape)} expected loc, shared_scale_tril and "
                f"own_scale_tril of shapes {expected}, and widths that sum to {size}; got {shapes} and {tuple(widths)}"
            )
        self.loc, self.shared_scale_tril, self.loading = loc, shared_scale_tril, loading
        self.own_scale_tril, self.widths, self.num_shared = own_scale_tril, tuple(widths), num_shared
        super().__init__(Size(), loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> BlockArrowheadNormal:
        """Return the same distribution with another batch shape; see `pyro.distributions.TorchDistribution.expand`."""
        parts = (self.loc, self.shared_scale_tril, self.loading, self.own_scale_tril)
        new = type(self)(*parts, self.widths, validate_args=False)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def blocks(self, own: Tensor) -> Tensor:
        """Place what comes after the shared numbers, ``... x P B``, as ``... x P x B``."""
        return to_blocks(own, len(self.loading), self.widths)

    @property
    def common_factor(self) -> Tensor:
        """The matrix that ``z`` is multiplied by, ``D x S``, in the order of the vector."""
        return torch.cat([self.shared_scale_tril, from_blocks(self.loading.movedim(-1, 0), self.widths).mT])

    def times_covariance(self, vector: Tensor) -> Tensor:
        """Return the covariance times a vector, ``D``."""
        common = self.common_factor
        own = self.blocks(vector[self.num_shared :]).unsqueeze(-1)
        noise = (self.own_scale_tril @ (self.own_scale_tril.mT @ own)).squeeze(-1)
        product = common @ (common.mT @ vector)
        return product + torch.cat([vector.new_zeros(self.num_shared), from_blocks(noise, self.widths)])

    def rsample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draw reparameterised values, ``sample_shape x batch_shape x D``."""
        noise = torch.randn(self._extended_shape(Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
        z, own = noise[..., : self.num_shared], self.blocks(noise[..., self.num_shared :])
        common = z @ self.common_factor.mT
        own = from_blocks((self.own_scale_tril @ own.unsqueeze(-1)).squeeze(-1), self.widths)
        return self.loc + common + torch.cat([torch.zeros_like(z), own], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        quadratic = self.whiten(value - self.loc).square().sum(-1)
        log_density: Tensor = -0.5 * (quadratic + self.event_shape[0] * math.log(2 * math.pi)) - self._half_log_det
        return log_density

    @property
    def _half_log_det(self) -> Tensor:
        trils = (self.shared_scale_tril, self.own_scale_tril)
        return torch.stack([t.diagonal(dim1=-2, dim2=-1).log().sum() for t in trils]).sum()

    @property
    def mean(self) -> Tensor:
        """The mean, which is ``loc``."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each number, ``batch_shape x D``."""
        own = from_blocks(self.own_scale_tril.square().sum(-1), self.widths)
        variance = self.common_factor.square().sum(-1) + torch.cat([own.new_zeros(self.num_shared), own])
        return variance.expand(self.batch_shape + self.event_shape)

    @property
    def factor(self) -> Tensor:
        """A square root of the covariance in full, ``D x D``."""
        size = len(self.loading) * sum(self.widths)
        own = torch.block_diag(*self.own_scale_tril)  # block by block
        place = from_blocks(torch.arange(size, device=own.device).view(len(self.loading), -1), self.widths)
        own = torch.cat([own.new_zeros(self.num_shared, size), own[place]])
        return torch.cat([self.common_factor, own], -1)

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance in full, ``D x D``."""
        return self.factor @ self.factor.mT

    @property
    def precision_diagonal(self) -> Tensor:
        """The diagonal of the inverse of the covariance, ``D``."""
        own = torch.cholesky_inverse(self.own_scale_tril)
        identity = torch.eye(self.num_shared, dtype=self.loc.dtype, device=self.loc.device)
        inner = identity + torch.einsum("pbs,pbc,pct->st", self.loading, own, self.loading)
        inverse = torch.linalg.solve_triangular(self.shared_scale_tril, identity, upper=False)
        of_own = from_blocks(own.diagonal(dim1=-2, dim2=-1), self.widths)
        return torch.cat([(inverse * (inner @ inverse)).sum(-2), of_own])

    def whiten(self, deviation: Tensor) -> Tensor:
        """Return the standard normal numbers behind deviations from ``loc``, ``... x D``."""
        shared, own = deviation[..., : self.num_shared], self.blocks(deviation[..., self.num_shared :])
        z = torch.linalg.solve_triangular(self.shared_scale_tril, shared.unsqueeze(-1), upper=False).squeeze(-1)
        rest = own - torch.einsum("pbs,...s->...pb", self.loading, z)
        columns = rest.reshape(-1, *self.loading.shape[:2]).movedim(0, -1)  # of one factor a block, whatever is asked
        e = torch.linalg.solve_triangular(self.own_scale_tril, columns, upper=False).movedim(-1, 0).view(rest.shape)
        return torch.cat([z, from_blocks(e, self.widths)], -1)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, ``batch_shape``."""
        entropy: Tensor = 0.5 * self.event_shape[0] * (1 + math.log(2 * math.pi)) + self._half_log_det
        return entropy.expand(self.batch_shape)


def to_blocks(own: Tensor, num_blocks: int, widths: tuple[int, ...]) -> Tensor:
    """Place arrays side by side, ``... x P B``, as blocks, ``... x P x B``."""
    parts = own.split([num_blocks * width for width in widths], -1)
    return torch.cat([part.unflatten(-1, (num_blocks, width)) for part, width in zip(parts, widths)], -1)


def from_blocks(blocks: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Place blocks, ``... x P x B``, as arrays side by side, ``... x P B``."""
    return torch.cat([part.flatten(-2) for part in blocks.split(list(widths), -1)], -1)
