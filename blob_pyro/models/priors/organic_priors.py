"""Beliefs about items before any view is seen, as one replaceable object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyro.distributions as dist

__all__ = ["OrganicPriors"]


@dataclass(frozen=True)
class OrganicPriors:
    """Priors of Psi and rho, the organic model's item parameters.

    The paper has none and maximises the likelihood ("L2 regularisation", tuned on a validation set, in section 4.1
    is the first of these with ``inference="map"``). With few views per item they are what keeps the fit from learning
    the training sessions by heart.

    Args:
        item_embedding: of each entry of Psi; a `Normal` over one number, or None.
        item_intercept: of each entry of rho; a `Normal` over one number, or None.
        inference: "map" for the most probable value; "posterior" for an independent normal on every entry, learned
            with the rest. The fitted ``model.item_embedding`` is then the posterior mean.

    Raises:
        ValueError: for anything else.

    Example:
        >>> OrganicPriors(item_embedding=dist.Normal(0.0, 0.5)).item_embedding.scale
        tensor(0.5000)
    """

    item_embedding: dist.Normal | None = None
    item_intercept: dist.Normal | None = None
    inference: Literal["map", "posterior"] = "map"

    def __post_init__(self) -> None:
        for name in ("item_embedding", "item_intercept"):
            prior = getattr(self, name)
            if prior is not None and (not isinstance(prior, dist.Normal) or prior.batch_shape != ()):
                raise ValueError(f"{name}: expected None or a Normal over one number, got {prior!r}")
        if self.inference not in ("map", "posterior"):
            raise ValueError(f"inference: expected 'map' or 'posterior', got {self.inference!r}")
        if self.inference == "posterior" and not self.any:
            raise ValueError("inference: 'posterior' needs a prior for item_embedding, item_intercept or both")

    @property
    def any(self) -> bool:
        """True where there is a prior at all."""
        return self.item_embedding is not None or self.item_intercept is not None
