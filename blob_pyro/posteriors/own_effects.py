"""Effects that items have on their own click logits: a kappa, and a beta where `ItemDeviations` give them one."""

from __future__ import annotations

from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.distributions import ArrowheadNormal, BlockArrowheadNormal
from blob_pyro.distributions.multivariate import MultivariatePart
from blob_pyro.models.sites import BETA_DEVIATION, KAPPA
from blob_pyro.posteriors.site_vectors import site_vector

__all__ = ["OwnEffects", "has_own_effects", "own_effects"]

_MOST_SHARED = 64  # numbers behind a vector, each of which has a loading on every deviation


class OwnEffects(NamedTuple):
    """Items' own numbers: ``F = K + 1`` for each of ``P`` items, a deviation of beta and then kappa.

    Those of item ``p`` are ``loc_p + loading_p z`` and noise of their own; ``z`` is what items share. In a context they
    add ``f' x_p`` to the logit, where ``f`` is its interest and a one.

    Attributes:
        loc: ``P x F``.
        loading: ``P x F x R``.
        covariance: of the noise, ``P x F (F + 1) / 2``: upper triangles, what is off the diagonal doubled.
    """

    loc: Tensor
    loading: Tensor
    covariance: Tensor

    def mean(self, interest: Tensor) -> Tensor:
        """Return what the items add on average, ``N x P``, in contexts with these interests, ``N x K``."""
        return _features(interest) @ self.loc.mT

    def loadings(self, interest: Tensor) -> Tensor:
        """Return its loadings on the shared numbers, ``N x P x R``."""
        return torch.einsum("nf,pfr->npr", _features(interest), self.loading)

    def scale(self, interest: Tensor) -> Tensor:
        """Return its standard deviation given the shared numbers, ``N x P``."""
        features = _features(interest)
        row, column = torch.triu_indices(*2 * features.shape[-1:], device=features.device)
        return ((features[:, row] * features[:, column]) @ self.covariance.mT).clamp(min=0).sqrt()


def has_own_effects(posterior: dict[str, TorchDistribution]) -> bool:
    """Say whether the posterior of deviations and kappa is one that `own_effects` can read."""
    deviation, kappa = posterior[BETA_DEVIATION], posterior[KAPPA]
    if isinstance(deviation, MultivariatePart):
        vector = deviation.multivariate
        if isinstance(vector, BlockArrowheadNormal):
            return isinstance(kappa, MultivariatePart) and kappa.multivariate is vector
        if isinstance(vector, ArrowheadNormal):
            return vector.num_shared <= _MOST_SHARED and deviation.start >= vector.num_shared
        return isinstance(vector, dist.LowRankMultivariateNormal) and vector.cov_factor.shape[-1] <= _MOST_SHARED
    return isinstance(getattr(deviation, "base_dist", deviation), (dist.Normal, dist.Delta))


def own_effects(posterior: dict[str, TorchDistribution], num_shared: int) -> OwnEffects:
    """Read the items' own numbers off the posteriors of `BETA_DEVIATION` and `KAPPA`.

    Args:
        posterior: for which `has_own_effects` holds.
        num_shared: ``R``, see `blob_pyro.posteriors.site_vectors.num_shared_factors`.
    """
    deviation = posterior[BETA_DEVIATION]
    vector = deviation.multivariate if isinstance(deviation, MultivariatePart) else None
    if isinstance(vector, BlockArrowheadNormal):
        loc = vector.blocks(vector.loc[vector.num_shared :])
        return OwnEffects(loc, vector.loading, _packed(vector.own_scale_tril @ vector.own_scale_tril.mT))
    beta, kappa = site_vector(posterior, BETA_DEVIATION, num_shared), site_vector(posterior, KAPPA, num_shared)
    loc, scale, factor = (torch.cat([b, k.unsqueeze(-1)], -1) for b, k in zip(beta, kappa))
    return OwnEffects(loc, factor.movedim(0, -1), _packed(scale.square().diag_embed()))


def _features(interest: Tensor) -> Tensor:
    return torch.cat([interest, interest.new_ones(len(interest), 1)], -1)


def _packed(covariance: Tensor) -> Tensor:
    """Upper triangles of symmetric matrices, with what is off the diagonal doubled."""
    row, column = torch.triu_indices(*covariance.shape[-2:], device=covariance.device)
    return covariance[..., row, column] * torch.where(row == column, 1, 2)
