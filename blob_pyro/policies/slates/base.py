"""Distributions over slates, and those that are filled slot by slot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data import Histories

__all__ = ["Contexts", "RepeatableSlates", "SequentialSlates", "Slates", "draw_by_inversion", "require_slots"]


@dataclass(frozen=True)
class Contexts:
    """Some of the contexts that a policy decides in.

    Attributes:
        histories: what ``n`` users had viewed.
        allowed: which items may be chosen, ``n x P`` booleans; None for all.
        covariates: of these contexts, as the policy's model takes them; None for none.
        first: number of the first of them, which error messages count from.
    """

    histories: Histories
    allowed: Tensor | None = None
    covariates: Any = None
    first: int = 0

    def __len__(self) -> int:
        return len(self.histories)

    def __getitem__(self, index: Tensor) -> Contexts:
        """Some of them, of those without covariates."""
        assert self.covariates is None, "covariates of some contexts are not known here"
        allowed = None if self.allowed is None else self.allowed[index]
        return Contexts(self.histories[index], allowed, first=self.first)

    @property
    def mask(self) -> Tensor:
        """The items that may be chosen, ``n x P`` booleans."""
        if self.allowed is not None:
            return self.allowed
        one = torch.ones(1, dtype=torch.bool, device=self.histories.device)
        return one.expand(len(self), self.histories.num_items)


class Slates(ABC):
    """Slates of ``num_slots`` distinct items for each of ``n`` contexts.

    The propensity of an item in a slot is the probability that this slot holds this item, whatever the other slots
    hold: over all items it sums to 1 in each slot.

    Args:
        num_slots: ``L``.
        num_items: size ``P`` of the catalogue.
    """

    knows_alike_contexts: bool = False
    """Whether what is costly is computed once for contexts that are alike, so that nobody else needs to see to it."""

    def __init__(self, num_slots: int, num_items: int) -> None:
        self.num_slots, self.num_items = num_slots, num_items

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers, the first slot first.

        Args:
            generator: of the CPU.
        """

    @abstractmethod
    def rank_probs(self, items: Tensor) -> Tensor:
        """Return the probability of items to be in each slot, ``n x C x L`` float64.

        Args:
            items: ``n x C`` item numbers.
        """

    def rank_errors(self, items: Tensor) -> Tensor:
        """Return the standard errors of `rank_probs`, ``n x C x L``; 0 where they are exact."""
        return torch.zeros(*items.shape, self.num_slots, dtype=torch.float64, device=items.device)

    def propensities(self, slates: Tensor) -> Tensor:
        """Return the probability of each item of a slate to be where it is, ``n x L`` float64."""
        return self.rank_probs(slates).diagonal(dim1=-2, dim2=-1)

    def propensity_errors(self, slates: Tensor) -> Tensor:
        """Return the standard errors of `propensities`, ``n x L``; 0 where they are exact."""
        return self.rank_errors(slates).diagonal(dim1=-2, dim2=-1)

    def draw_known(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw slates; returns their items' propensities and the errors of these, too, ``n x L`` each.

        What draws may log another propensity than the marginal one, such as that given a part of the draw.
        """
        slates = self.draw(generator)
        return slates, self.propensities(slates), self.propensity_errors(slates)


class RepeatableSlates(Slates):
    """Slates that are known of some contexts, and so of others that are like them."""

    @abstractmethod
    def repeated(self, kind: Tensor) -> Slates:
        """Repeat contexts: ``N`` of them, each like number ``kind`` of these, int64."""


class SequentialSlates(Slates):
    """Slates whose slots are filled one after another, each from the items that are left."""

    @abstractmethod
    def next_probs(self, left: Tensor) -> Tensor:
        """Return the probability of every item to fill the next slot, ``n x P`` float64.

        Args:
            left: ``n x P`` booleans, the items that no slot above holds.
        """

    @abstractmethod
    def mask(self) -> Tensor:
        """Mark the items that may be chosen, ``n x P`` booleans."""

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers; see `Slates.draw`: one uniform number for each slot."""
        mask = self.mask()
        uniform = torch.rand(len(mask), self.num_slots, dtype=torch.float64, generator=generator)
        return self.fill(uniform.to(mask.device))

    def fill(self, uniform: Tensor) -> Tensor:
        """Fill slots by uniform numbers, ``n x L`` in [0, 1); returns ``n x L`` item numbers."""
        left = self.mask().clone()
        slates = torch.empty(len(left), self.num_slots, dtype=torch.int64, device=left.device)
        for slot in range(self.num_slots):
            slates[:, slot] = draw_by_inversion(self.next_probs(left), uniform[:, slot])
            left.scatter_(1, slates[:, slot, None], False)
        return slates


def draw_by_inversion(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw categorical values by the quantile function of given uniforms; what has probability 0 is not drawn.

    Args:
        probs: ``n x P`` float64, not negative and not all 0; rows need not be normalised.
        uniform: ``n``, in [0, 1).

    Returns:
        ``n`` int64.
    """
    cumulative = probs.cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def require_slots(possible: Tensor, num_slots: int, first: int, why: str) -> None:
    """Refuse contexts with fewer items to play than there are slots.

    Args:
        possible: ``n`` items that can be played.
        num_slots: slots.
        first: number of the first context.
        why: what the others are.

    Raises:
        ValueError: naming the first such context.
    """
    short = possible < num_slots
    if bool(short.any()):
        row = int(short.nonzero()[0])
        raise ValueError(
            f"slots: {num_slots} cannot be filled after histories[{first + row}]: the policy plays "
            f"{int(possible[row])} of its candidates, {why}"
        )
