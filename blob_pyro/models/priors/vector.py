"""A prior that correlates sites: one Gaussian over all of a model's numbers, as an update leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from blob_pyro.distributions.multivariate import MultivariatePart, factors
from blob_pyro.models.sites import KAPPA

__all__ = ["VectorPrior"]


@dataclass(frozen=True)
class VectorPrior:
    """One Gaussian vector, dealt out to the sites: for `BanditPriors.vector`.

    Args:
        law: of the vector, event ``D``: ``MultivariateNormal``, ``LowRankMultivariateNormal`` or
            `blob_pyro.distributions.ArrowheadNormal`.
        shapes: of each site, by name, in the order in which they lie in the vector; kappa last.

    Raises:
        ValueError: if the law is none of these, the shapes do not fill it, or kappa is not last.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> law = dist.MultivariateNormal(torch.tensor([-1.0, -4.0]), torch.tensor([[1.0, 0.5], [0.5, 4.25]]))
        >>> prior = VectorPrior(law, {"w_a": (), "w_c": ()})
        >>> prior.marginals()["w_c"].variance
        tensor(4.2500)
    """

    law: TorchDistribution
    shapes: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        try:
            factors(self.law)
        except TypeError:
            raise ValueError(
                f"vector: expected a MultivariateNormal, LowRankMultivariateNormal or ArrowheadNormal, got {self.law!r}"
            ) from None
        size = sum(Size(shape).numel() for shape in self.shapes.values())
        if tuple(self.law.batch_shape) != () or tuple(self.law.event_shape) != (size,):
            raise ValueError(
                f"vector: its sites have {size} numbers; expected a law with that event shape and no batch shape, got "
                f"{tuple(self.law.event_shape)} and {tuple(self.law.batch_shape)}"
            )
        if KAPPA in self.shapes and list(self.shapes)[-1] != KAPPA:
            raise ValueError(f"vector: expected {KAPPA!r} as its last site, got the order {list(self.shapes)}")

    def parts(self, draw: Tensor) -> dict[str, MultivariatePart]:
        """Each site's piece of a draw, ``... x D``."""
        pieces, start = {}, 0
        for name, shape in self.shapes.items():
            pieces[name] = MultivariatePart(draw, self.law, start, Size(shape))
            start += Size(shape).numel()
        return pieces

    def marginals(self) -> dict[str, MultivariatePart]:
        """Each site's part: its ``mean`` and ``variance`` are the marginal's."""
        return self.parts(self.law.mean)
