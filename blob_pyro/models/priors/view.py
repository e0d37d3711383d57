"""The view of the model that a prior may have, which is a part of it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from blob_pyro.models.priors.learned import Scale

__all__ = ["ModelView"]


class ModelView(Protocol):
    """The view of ``model`` that priors and terms are given: what is known of the items, and a place for buffers.

    What a term puts into it, by `register_buffer`, `register_scale` or as an attribute, it reads as an attribute, and
    no other
    term sees: two terms of one class do not meet. See `blob_pyro.models.placed_terms`.

    Attributes:
        item_embedding: Psi, ``P x K``.
        item_intercept: rho, ``P``.
        kappa_scale: standard deviation of the items' own click logits.
        num_items: ``P``.
        embedding_dim: ``K``.
    """

    item_embedding: Tensor
    item_intercept: Tensor
    kappa_scale: Tensor
    num_items: int
    embedding_dim: int

    def register_buffer(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor, which moves and is saved with the model."""

    def register_scale(self, name: str, value: Scale, site: str) -> None:
        """Keep a prior standard deviation: a constant or, if it is `Learned`, a parameter that training chooses.

        Args:
            name: of the attribute.
            value: where it stands or starts.
            site: whose prior standard deviation it is.
        """

    def __getattr__(self, name: str) -> Any:
        """What has been put into it."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep a number or another object that does not move."""
