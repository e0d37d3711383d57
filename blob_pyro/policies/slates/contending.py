"""Slates of Thompson sampling over very many items: given the draw, among those that may be the best."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.policies.slates.scores import NormalSlates
from blob_pyro.policies.thompson_actions import require_own_doubt
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts
from blob_pyro.propensity.kernels.contenders import Contenders, contenders

__all__ = ["ContendingSlates", "contending"]


def contending(
    logits: LogitsOfContexts, shared: Tensor, mass_left_out: float, num_slots: int, allowed: Tensor | None
) -> Contenders:
    """Find the items that may be among the best few given a draw of what items share.

    Means of all items are computed in the posterior's own precision, and doubted by more than rounding can do to them.

    Args:
        logits: of ``n`` contexts.
        shared: the draw, ``n x D`` standard normal numbers.
        mass_left_out: the most that the probability of another item among the best may be.
        num_slots: how many of the best count.
        allowed: which items may be played, ``n x P``; None for all.

    Raises:
        ValueError: for a posterior with means that are not finite.
    """
    with torch.no_grad():
        slack = logits.rounding(shared)
        if not bool(slack.isfinite().all()):  # it is a bound of every mean
            raise ValueError("logits: their means are not finite. Repair the posterior that they come from")
        loc = logits.given_shared(shared)
        scale = logits.own_scale.expand_as(loc)
        return contenders(loc, scale, mass_left_out, num_slots, allowed=allowed, slack=slack)


class ContendingSlates:
    """The best few of one draw, among the items that may be; each context has candidates of its own.

    What is played is the best of the candidates, and its propensity among them is exact: it is within ``left_out`` of
    the same one among all items.

    Args:
        logits: of ``n`` contexts.
        shared: the draw of what items share, ``n x D``.
        mass_left_out: see `contending`.
        num_slots: ``L``.
        allowed: which items may be played, ``n x P``; None for all.

    Attributes:
        left_out: a bound on the probability that another item is among the best, ``n`` float64.

    Raises:
        ValueError: for a posterior that leaves an item's own logit no doubt.
    """

    def __init__(
        self, logits: LogitsOfContexts, shared: Tensor, mass_left_out: float, num_slots: int, allowed: Tensor | None
    ) -> None:
        require_own_doubt(logits.own_scale)
        found = contending(logits, shared, mass_left_out, num_slots, allowed)
        self.left_out, self.number = found.left_out, found.number
        some, place = found.number.unique(return_inverse=True)
        few = logits.of_items(some).double()
        loc = few.given_shared(shared)
        scale = few.own_scale.expand_as(loc)
        self.slates = NormalSlates(loc.gather(1, place), scale.gather(1, place), found.valid, num_slots)

    def draw_known(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw slates, with propensities and their errors, ``n x L`` each; see `Slates.draw_known`."""
        place, propensity, error = self.slates.draw_known(generator)
        return self.number.gather(1, place), propensity, error

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers."""
        return self.number.gather(1, self.slates.draw(generator))
