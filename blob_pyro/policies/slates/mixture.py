"""Slates of one of several distributions, picked at random for each context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blob_pyro.policies.slates.base import Slates, draw_by_inversion

__all__ = ["MixtureSlates"]


class MixtureSlates(Slates):
    """The whole slate of one of the parts.

    Args:
        parts: distributions over slates of the same contexts.
        weights: of the parts; they sum to 1.
    """

    def __init__(self, parts: Sequence[Slates], weights: Sequence[float]) -> None:
        super().__init__(parts[0].num_slots, parts[0].num_items)
        self.parts, self.weights = parts, torch.tensor(weights, dtype=torch.float64)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers; see `Slates.draw`: every part draws, and one is shown."""
        slates = torch.stack([part.draw(generator) for part in self.parts])
        uniform = torch.rand(slates.shape[1], dtype=torch.float64, generator=generator)
        which = draw_by_inversion(self.weights.expand(len(uniform), -1).contiguous(), uniform).to(slates.device)
        return slates[which, torch.arange(slates.shape[1], device=slates.device)]

    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot; see `Slates.rank_probs`."""
        found = [part.rank_probs(items) for part in self.parts]
        return torch.stack([p * w for p, w in zip(found, self.weights.tolist(), strict=True)]).sum(0)

    def rank_errors(self, items: Tensor) -> Tensor:
        """Add up the parts' standard errors of `rank_probs`, since they may have the same sign."""
        found = [part.rank_errors(items) for part in self.parts]
        return torch.stack([e * w for e, w in zip(found, self.weights.tolist(), strict=True)]).sum(0)
