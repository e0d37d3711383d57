"""`ClickLogits` by draws: for posteriors, priors and terms that have no closed form."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import constraints

__all__ = ["DrawnClickLogits", "linear_features"]


class DrawnClickLogits(TorchDistribution):
    """Click logits of all items for each of ``N`` contexts, under a fixed set of draws of the parameters.

    Every logit is a linear form of its context, so a draw of the parameters is a matrix. A sample picks one of the
    draws for each context.

    Args:
        coefficients: ``S x P x F``: see `blob_pyro.models.BanditModel.coefficients`.
        features: ``N x F``, or ``S x N x F`` where the contexts are drawn too.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, coefficients: Tensor, features: Tensor) -> None:
        self.coefficients, self.features = coefficients, features
        self.logits = features @ coefficients.mT  # S x N x P
        super().__init__(features.shape[-2:-1], coefficients.shape[1:2], validate_args=False)

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> DrawnClickLogits:
        """Repeat a single context: see `pyro.distributions.TorchDistribution.expand`."""
        (size,) = torch.Size(batch_shape)
        shape = (*self.features.shape[:-2], size, self.features.shape[-1])
        return DrawnClickLogits(self.coefficients, self.features.expand(shape))

    def __getitem__(self, index: Tensor | slice) -> DrawnClickLogits:
        """Some of the contexts."""
        return DrawnClickLogits(self.coefficients, self.features[..., index, :])

    def sample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """``sample_shape x N x P``; a draw of its own for every context."""
        shape, device = torch.Size(sample_shape) + self.batch_shape, self.logits.device
        draw = torch.randint(len(self.logits), shape, device=device)
        return self.logits[draw, torch.arange(shape[-1], device=device)]

    @property
    def mean(self) -> Tensor:
        """``N x P``."""
        return self.logits.mean(0)

    @property
    def variance(self) -> Tensor:
        """``N x P``."""
        return self.logits.var(0)

    def cdf(self, value: Tensor) -> Tensor:
        """Of each item's logit by itself: the fraction of draws that are not above ``value``."""
        return (self.logits <= value).to(self.logits.dtype).mean(0)

    def icdf(self, probability: float) -> Tensor:
        """The quantile of each item's logit by itself, ``N x P``."""
        if not 0 < probability < 1:
            raise ValueError(f"probability: must lie between 0 and 1, got {probability}")
        return self.logits.quantile(probability, 0)

    def click_probability(self) -> Tensor:
        """Averaged over the posterior, ``E sigmoid(logit)``, ``N x P``."""
        return self.logits.sigmoid().mean(0)


def linear_features(interest: Tensor, covariates: Tensor | None) -> Tensor:
    """What a logit is a linear form of: omega, one, and the user's covariates.

    Args:
        interest: ``... x N x K``.
        covariates: ``N x F``, or None.

    Returns:
        ``... x N x (K + 1 + F)``, to go with `blob_pyro.models.BanditModel.coefficients`.
    """
    parts = [interest, interest.new_ones(*interest.shape[:-1], 1)]
    if covariates is not None:
        parts.append(covariates.expand(*interest.shape[:-1], -1))
    return torch.cat(parts, -1)
