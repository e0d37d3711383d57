"""What a fitted bandit model knows: the distribution of every item's click logit, in each context."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from blob_pyro.infer.projections import project_right
from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA

__all__ = ["ClickLogits"]


class ClickLogits(TorchDistribution):
    r"""Posterior of the logits :math:`\lambda_p = \beta_p \omega + \kappa_p` of all items, for each of ``N`` contexts.

    Given the weights ``w_a`` and ``w_b`` the logits are jointly Gaussian, of low rank plus diagonal: every item
    shares zeta, and has a kappa of its own. Over the weights they are a mixture. Contexts are independent here, one
    draw of the parameters for each; draws that share parameters across contexts are `blob_pyro.BLOB.sample`'s.

    Args:
        posterior: distributions of the sites `W_A`, `W_B`, `W_C` (normal), `KAPPA` (independent normal, ``P``) and
            `ZETA` (any family with a `blob_pyro.infer.projections.project_right`), by name.
        item_embedding: Psi, ``P x K``.
        whitening: ``L``, ``K x K``, with ``L L' = Psi' Psi / P``.
        interest: omega, ``N x K``.

    Raises:
        ValueError: for a site that is not of these families, naming it.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}  # the guide has checked them
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, posterior: dict[str, TorchDistribution], item_embedding: Tensor, whitening: Tensor, interest: Tensor
    ) -> None:
        self._arguments = (posterior, item_embedding, whitening, interest)
        self.item_embedding = item_embedding
        self.weights = [_normal(posterior, name) for name in (W_A, W_B, W_C)]
        kappa = posterior[KAPPA]
        if not (isinstance(kappa, dist.Independent) and isinstance(kappa.base_dist, dist.Normal)):
            raise ValueError(f"site {KAPPA!r}: click_logits needs an independent normal posterior, got {kappa!r}")
        self.kappa_loc, self.kappa_scale = kappa.base_dist.loc, kappa.base_dist.scale
        law = project_right(posterior[ZETA], interest @ whitening)
        if law is None:
            raise ValueError(
                f"site {ZETA!r}: no Gaussian law of zeta L'omega is known for {posterior[ZETA]!r}; register one with "
                "blob_pyro.infer.projections.project_right, or use blob.sample"
            )
        self.affinity = interest @ item_embedding.mT  # N x P
        self.deviation_loc, self.deviation_factor = law  # N x K, N x K x K: before Psi
        super().__init__(interest.shape[:1], item_embedding.shape[:1], validate_args=False)

    @property
    def num_factors(self) -> int:
        """Standard-normal numbers that all items share: one for ``w_a``, one for ``w_b``, ``K`` for zeta."""
        return 2 + self.item_embedding.shape[1]

    def expand(self, batch_shape: Size, _instance: TorchDistributionMixin | None = None) -> ClickLogits:
        """Repeat a single context: see `pyro.distributions.TorchDistribution.expand`."""
        posterior, item_embedding, whitening, interest = self._arguments
        (size,) = torch.Size(batch_shape)
        return ClickLogits(posterior, item_embedding, whitening, interest.expand(size, -1))

    def __getitem__(self, index: Tensor | slice) -> ClickLogits:
        """Some of the contexts."""
        posterior, item_embedding, whitening, interest = self._arguments
        return ClickLogits(posterior, item_embedding, whitening, interest[index])

    def given_shared(self, factors: Tensor) -> Tensor:
        """Mean of each logit given what all items share; independent across items around it.

        ``w_c`` is left out: it moves all items alike.

        Args:
            factors: standard-normal numbers, ``... x num_factors``, broadcast against the ``N`` contexts: pass
                ``... x 1 x num_factors`` for the same draws in every context.

        Returns:
            ``... x N x P``.
        """
        w_a, w_b = (w.loc + w.scale * factors[..., i] for i, w in enumerate(self.weights[:2]))
        noise = (self.deviation_factor @ factors[..., 2:].unsqueeze(-1)).squeeze(-1)
        deviation = (self.deviation_loc + noise) @ self.item_embedding.mT
        return softplus(w_a).unsqueeze(-1) * self.affinity + softplus(w_b).unsqueeze(-1) * deviation + self.kappa_loc

    def rsample(self, sample_shape: Size | tuple[int, ...] = Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Reparameterised draws of the logits, ``sample_shape x N x P``; fresh parameters for every context."""
        shape = torch.Size(sample_shape) + self.batch_shape
        shared = self.affinity.new_empty(*shape, self.num_factors).normal_()
        own = self.affinity.new_empty(*shape, *self.event_shape).normal_()
        w_c = self.weights[2].rsample(shape)
        return self.given_shared(shared) + self.kappa_scale * own + w_c.unsqueeze(-1)

    @property
    def mean(self) -> Tensor:
        """``N x P``, exact up to Gauss-Hermite quadrature of softplus."""
        (first_a, _), (first_b, _) = (_softplus_moments(w) for w in self.weights[:2])
        deviation = self.deviation_loc @ self.item_embedding.mT
        return first_a * self.affinity + first_b * deviation + self.kappa_loc + self.weights[2].mean

    @property
    def variance(self) -> Tensor:
        """``N x P``, exact up to Gauss-Hermite quadrature of softplus."""
        (first_a, second_a), (first_b, second_b) = (_softplus_moments(w) for w in self.weights[:2])
        deviation = self.deviation_loc @ self.item_embedding.mT
        spread = (self.item_embedding @ self.deviation_factor).square().sum(-1)
        return (
            (second_a - first_a**2) * self.affinity**2
            + second_b * (deviation**2 + spread)
            - (first_b * deviation) ** 2
            + self.kappa_scale**2
            + self.weights[2].variance
        )


def _normal(posterior: dict[str, TorchDistribution], name: str) -> dist.Normal:
    site = posterior[name]
    if not isinstance(site, dist.Normal):
        raise ValueError(f"site {name!r}: click_logits needs a normal posterior, got {site!r}; use blob.sample instead")
    return site


def _softplus_moments(w: dist.Normal) -> tuple[Tensor, Tensor]:
    """First and second moment of softplus(w): 64-node Gauss-Hermite quadrature in float64."""
    nodes, weights = (torch.from_numpy(a).to(w.loc.device) for a in np.polynomial.hermite_e.hermegauss(64))
    weights = weights / weights.sum()
    values = softplus(w.loc.to(torch.float64) + w.scale.to(torch.float64) * nodes)
    return ((values * weights).sum()).to(w.loc.dtype), ((values**2 * weights).sum()).to(w.loc.dtype)
