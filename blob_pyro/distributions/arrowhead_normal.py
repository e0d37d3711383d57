"""A multivariate normal whose covariance has the shape of an arrow's inverse."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor

__all__ = ["ArrowheadNormal"]


class ArrowheadNormal(TorchDistribution):
    r"""A few shared variables, and many that are independent of one another given them.

    ``shared = loc[:S] + L z`` and ``own_p = loc[S+p] + loading_p z + scale_p e_p`` for standard normal ``z`` and ``e``:
    a Gaussian whose precision matrix is an arrowhead, as that of a model with ``S`` shared and ``M`` item parameters.
    Costs ``S^2 + S M`` numbers and operations where a Cholesky factor costs ``(S + M)^2 / 2``.

    Args:
        loc: ``... x (S + M)``.
        shared_scale_tril: lower-triangular ``L``, ``... x S x S``.
        loading: ``... x M x S``.
        scale: ``... x M``, positive.

    Raises:
        ValueError: if the shapes do not match.

    Example:
        >>> loading, scale = torch.tensor([[1.0], [0.0]]), torch.tensor([0.5, 3.0])
        >>> d = ArrowheadNormal(torch.zeros(3), torch.tensor([[2.0]]), loading, scale)
        >>> d.covariance_matrix
        tensor([[4.0000, 2.0000, 0.0000],
                [2.0000, 1.2500, 0.0000],
                [0.0000, 0.0000, 9.0000]])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "shared_scale_tril": constraints.lower_cholesky,
        "loading": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        shared_scale_tril: Tensor,
        loading: Tensor,
        scale: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        num_shared, num_own = shared_scale_tril.shape[-1], scale.shape[-1]
        sizes = (loc.shape[-1:], shared_scale_tril.shape[-2:], loading.shape[-2:])
        if sizes != ((num_shared + num_own,), (num_shared, num_shared), (num_own, num_shared)):
            raise ValueError(
                f"ArrowheadNormal: for {num_shared} shared and {num_own} independent variables expected a loc of "
                f"{num_shared + num_own}, got {tuple(loc.shape)}, and a loading of {num_own} x {num_shared}, got "
                f"{tuple(loading.shape)}"
            )
        self.num_shared = num_shared
        batch = torch.broadcast_shapes(
            loc.shape[:-1], shared_scale_tril.shape[:-2], loading.shape[:-2], scale.shape[:-1]
        )
        self.loc = loc.expand(*batch, -1)
        self.shared_scale_tril = shared_scale_tril.expand(*batch, -1, -1)
        self.loading = loading.expand(*batch, -1, -1)
        self.scale = scale.expand(*batch, -1)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> ArrowheadNormal:
        """Return the same distribution with another batch shape; see `pyro.distributions.TorchDistribution.expand`."""
        shape = torch.Size(batch_shape)
        return type(self)(
            self.loc.expand(*shape, -1),
            self.shared_scale_tril.expand(*shape, -1, -1),
            self.loading.expand(*shape, -1, -1),
            self.scale.expand(*shape, -1),
            validate_args=False,
        )

    def rsample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draw reparameterised values, ``sample_shape x batch_shape x (S + M)``."""
        noise = torch.randn(self._extended_shape(Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
        z, own = noise[..., : self.num_shared].unsqueeze(-1), noise[..., self.num_shared :]
        shared = (self.shared_scale_tril @ z).squeeze(-1)
        return self.loc + torch.cat([shared, (self.loading @ z).squeeze(-1) + self.scale * own], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        quadratic = self.whiten(value - self.loc).square().sum(-1)
        log_prob: Tensor = -0.5 * (quadratic + self.event_shape[0] * math.log(2 * math.pi)) - self._half_log_det
        return log_prob

    @property
    def _half_log_det(self) -> Tensor:
        diagonal = self.shared_scale_tril.diagonal(dim1=-2, dim2=-1)
        return diagonal.log().sum(-1) + self.scale.log().sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean, which is ``loc``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each number, ``batch_shape x (S + M)``."""
        shared = self.shared_scale_tril.square().sum(-1)
        return torch.cat([shared, self.loading.square().sum(-1) + self.scale.square()], -1)

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance in full, ``batch_shape x (S + M) x (S + M)``."""
        factor = torch.cat([self.shared_scale_tril, self.loading], -2)
        own = torch.nn.functional.pad(self.scale.square(), (self.num_shared, 0))
        return factor @ factor.mT + own.diag_embed()

    @property
    def common_factor(self) -> Tensor:
        """The matrix that ``z`` is multiplied by, ``batch_shape x (S + M) x S``."""
        return torch.cat([self.shared_scale_tril, self.loading], -2)

    @property
    def precision_diagonal(self) -> Tensor:
        """The diagonal of the inverse of the covariance, ``batch_shape x (S + M)``."""
        identity = torch.eye(self.num_shared, dtype=self.loc.dtype, device=self.loc.device)
        own = self.scale.square().reciprocal()
        inner = identity + self.loading.mT @ (own.unsqueeze(-1) * self.loading)
        inverse = torch.linalg.solve_triangular(self.shared_scale_tril, identity, upper=False)
        return torch.cat([(inverse * (inner @ inverse)).sum(-2), own], -1)

    def whiten(self, deviation: Tensor) -> Tensor:
        """Return the standard normal numbers behind deviations from ``loc``, ``... x (S + M)``."""
        shared, own = deviation[..., : self.num_shared], deviation[..., self.num_shared :]
        z = torch.linalg.solve_triangular(self.shared_scale_tril, shared.unsqueeze(-1), upper=False).squeeze(-1)
        return torch.cat([z, (own - (self.loading @ z.unsqueeze(-1)).squeeze(-1)) / self.scale], -1)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, ``batch_shape``."""
        entropy: Tensor = 0.5 * self.event_shape[0] * (1 + math.log(2 * math.pi)) + self._half_log_det
        return entropy
