"""The guide that knows how the weights move with all else: an arrowhead in place of independent normals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from blob_pyro.distributions import ArrowheadNormal
from blob_pyro.distributions.multivariate import MultivariatePart, with_analytic_entropy
from blob_pyro.guides.bandit import NormalGuide
from blob_pyro.guides.registry import register_guide
from blob_pyro.models import BanditBatch, BanditModel
from blob_pyro.models.sites import KAPPA, MULTIVARIATE, W_A, W_B, W_C, ZETA

__all__ = ["ArrowheadNormalGuide"]


@register_guide("arrowhead_normal")
class ArrowheadNormalGuide(NormalGuide):
    """Treat the weights as normal together, and all else as independent normals whose means follow them.

    ``w ~ N(m, S)`` for the weights ``w_a``, ``w_b`` and ``w_c``, and
    ``x_i | w ~ N(loc_i + slope_i (w - m), scale_i^2)`` for every other number, where only those of kappa and zeta have
    slopes: a structured mean field (Saul & Jordan 1996, *Exploiting tractable substructures in intractable networks*;
    Hoffman & Blei 2015, *Structured stochastic variational inference*), whose precision matrix is an arrowhead.
    Training is that of guide "normal". How uncertain the weights are, and what follows them, is found after it, by a
    pass over the events: see `blob_pyro.infer.weights.posterior`. Until then it is guide "normal".

    Args:
        model: whose sites it covers.

    Raises:
        ValueError: for a `BanditPriors.vector` of another shape than updates of this guide leave.
    """

    takes_workers = True
    """Its own fit adds up over workers what it needs of all events."""

    def __init__(self, model: BanditModel) -> None:
        super().__init__(model)
        priors, prior = model.site_priors(), model.vector_prior
        self.order = list(priors)
        names = sorted(priors, key=lambda name: name == KAPPA) if prior is None else list(prior.shapes)  # stable
        self.shapes = {name: Size(priors[name].event_shape) for name in names}
        self.weights = tuple(name for name in names if name in (W_A, W_B, W_C))
        self.is_auxiliary = prior is None
        if prior is not None:
            _check_vector(prior.distribution, names, self.weights)
        kind = model.item_embedding
        self.register_buffer("weights_correlation_tril", kind.new_zeros(len(self.weights), len(self.weights)))
        for name in (KAPPA, ZETA):
            if name in self.shapes:
                self.register_buffer(f"{name}_slope", kind.new_zeros(*self.shapes[name], len(self.weights)))
        self.is_correlated = False
        """Whether the weights' posterior has been found: see `correlate`."""

    @torch.no_grad()
    def correlate(
        self, loc: Mapping[str, Tensor], covariance: Tensor, slope: Mapping[str, Tensor], zeta_scale: Tensor | None
    ) -> None:
        """Take over the weights' posterior, and what follows them.

        Args:
            loc: means of the weights, of kappa and of zeta, by site.
            covariance: of the weights, in the order of `weights`, ``S x S``.
            slope: of kappa, ``P x S``, and of zeta, ``K x K x S``, where they are sites.
            zeta_scale: zeta's standard deviations given the weights, ``K x K``; None where it is no site.
        """
        kind, deviation = self.weights_correlation_tril, covariance.diagonal().sqrt()
        kind.copy_(torch.linalg.cholesky(covariance / torch.outer(deviation, deviation)))
        for name, value in loc.items():
            setattr(self, f"{name}_loc", value.to(kind))
        for name, value in zip(self.weights, deviation):
            setattr(self, f"{name}_scale", value.to(kind))
        for name, value in slope.items():
            getattr(self, f"{name}_slope").copy_(value)
        if zeta_scale is not None:
            self.zeta_scale = zeta_scale.to(kind)
        self.is_correlated = True

    @torch.no_grad()
    def to_mean_field(self) -> None:
        """Become independent normals, to be trained: each keeps its mean, and its own standard deviation."""
        for buffer in self.buffers():
            buffer.zero_()
        self.is_correlated = False

    @torch.no_grad()
    def share_nothing(self) -> None:
        """Leave a fit as independent normals; under a vector prior as a vector where nothing follows the weights."""
        if self.is_auxiliary:
            return
        self.weights_correlation_tril.copy_(torch.eye(len(self.weights)))
        self.is_correlated = bool(self.weights)

    def multivariate(self) -> TorchDistribution:
        """Return the distribution of all numbers side by side, the weights first and kappa last, event ``D``."""
        loc = torch.cat([getattr(self, f"{name}_loc").flatten() for name in self.shapes])
        scale = torch.cat([getattr(self, f"{name}_scale").flatten() for name in self.shapes])
        if not self.is_correlated:  # nothing is shared
            none = loc.new_zeros(len(loc), 0)
            return ArrowheadNormal(loc, none[:0], none, scale, validate_args=False)
        others = [name for name in self.shapes if name not in self.weights]
        tril = scale[: len(self.weights)].unsqueeze(-1) * self.weights_correlation_tril
        none = loc.new_zeros(0, len(tril))
        slopes = [getattr(self, f"{n}_slope", None) for n in others]
        rows = [
            none.new_zeros(self.shapes[n].numel(), len(tril)) if slope is None else slope.flatten(0, -2)
            for n, slope in zip(others, slopes)
        ]
        loading = torch.cat([none, *rows]) @ tril
        return ArrowheadNormal(loc, tril, loading, scale[len(tril) :], validate_args=False)

    def forward(self, batch: BanditBatch | None = None) -> dict[str, Tensor]:
        """Draw every global site; the batch is not needed."""
        if self.is_auxiliary and not self.is_correlated:
            return super().forward(batch)
        vector = self.multivariate()
        draw = pyro.sample(MULTIVARIATE, with_analytic_entropy(vector), infer={"is_auxiliary": self.is_auxiliary})
        parts, start = {}, 0
        for name, shape in self.shapes.items():
            parts[name] = MultivariatePart(draw, vector, start, shape)
            start += shape.numel()
        return {name: pyro.sample(name, parts[name]) for name in self.order}

    def take_over(self, old: NormalGuide, priors: Mapping[str, TorchDistribution]) -> None:
        """Take over what a guide of fewer items knows; new ones have their prior: see `blob_pyro.guides.takeover`."""
        super().take_over(old, priors)
        self.is_correlated = bool(getattr(old, "is_correlated", False))

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        known = state_dict.get(f"{prefix}weights_correlation_tril")
        self.is_correlated = known is not None and bool((known != 0).any())


def _check_vector(distribution: TorchDistribution, names: list[str], weights: tuple[str, ...]) -> None:
    """Refuse a prior that correlates other numbers than this guide does."""
    fits = isinstance(distribution, ArrowheadNormal) and distribution.num_shared == len(weights)
    if not fits or tuple(names[: len(weights)]) != weights:
        raise ValueError(
            f"guide 'arrowhead_normal': the prior is one {type(distribution).__name__} over {names}, and this guide "
            f"goes on from an ArrowheadNormal that shares {list(weights)} alone, as its own updates leave it; use "
            "'low_rank' or 'laplace', or give priors of independent sites"
        )
