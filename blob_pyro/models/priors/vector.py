"""A prior that correlates sites: one Gaussian over all of a model's numbers, as an update leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from blob_pyro.distributions import NestedNormal
from blob_pyro.distributions.multivariate import MultivariatePart, factors
from blob_pyro.models.sites import KAPPA
from blob_pyro.ops.renamed import renamed_argument, renamed_attribute

__all__ = ["VectorPrior"]


@dataclass(frozen=True)
class VectorPrior:
    """One Gaussian vector, dealt out to the sites: for `BanditPriors.vector`.

    Args:
        distribution: of the vector, event ``D``: ``MultivariateNormal``, ``LowRankMultivariateNormal``,
            `blob_pyro.distributions.ArrowheadNormal` or `blob_pyro.distributions.BlockArrowheadNormal`; or, as guide
            "laplace" leaves it, `blob_pyro.distributions.NestedNormal`, which is Gaussian given one of its numbers.
        shapes: of each site, by name, in the order in which they lie in the vector; kappa last.

    Raises:
        ValueError: if the distribution is none of these, the shapes do not fill it, or kappa is not last.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> distribution = dist.MultivariateNormal(torch.tensor([-1.0, -4.0]), torch.tensor([[1.0, 0.5], [0.5, 4.25]]))
        >>> prior = VectorPrior(distribution, {"w_a": (), "w_c": ()})
        >>> prior.marginals()["w_c"].variance
        tensor(4.2500)
    """

    distribution: TorchDistribution
    shapes: Mapping[str, tuple[int, ...]]

    law = renamed_attribute("law", "distribution")

    def __post_init__(self) -> None:
        known = factors.dispatch(type(self.distribution)) is not factors.dispatch(object)
        if not known and not isinstance(self.distribution, NestedNormal):
            raise ValueError(
                "vector: expected a MultivariateNormal, LowRankMultivariateNormal, ArrowheadNormal, "
                f"BlockArrowheadNormal or NestedNormal, got {self.distribution!r}"
            )
        size = sum(Size(shape).numel() for shape in self.shapes.values())
        if tuple(self.distribution.batch_shape) != () or tuple(self.distribution.event_shape) != (size,):
            raise ValueError(
                f"vector: its sites have {size} numbers; expected a distribution with that event shape and no "
                f"batch shape, got {tuple(self.distribution.event_shape)} and {tuple(self.distribution.batch_shape)}"
            )
        if KAPPA in self.shapes and list(self.shapes)[-1] != KAPPA:
            raise ValueError(f"vector: expected {KAPPA!r} as its last site, got the order {list(self.shapes)}")

    def parts(self, draw: Tensor) -> dict[str, MultivariatePart]:
        """Return each site's piece of a draw, ``... x D``."""
        pieces, start = {}, 0
        for name, shape in self.shapes.items():
            pieces[name] = MultivariatePart(draw, self.distribution, start, Size(shape))
            start += Size(shape).numel()
        return pieces

    def marginals(self) -> dict[str, MultivariatePart]:
        """Return each site's part: its ``mean`` and ``variance`` are the marginal's."""
        return self.parts(self.distribution.mean)


VectorPrior.__init__ = renamed_argument("law", "distribution")(VectorPrior.__init__)  # type: ignore[method-assign]
