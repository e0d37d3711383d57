"""Slates of Thompson sampling over very many items: given the draw, among those that may be the best."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from blob_pyro.policies.slates.scores import NormalSlates
from blob_pyro.policies.thompson_actions import require_own_doubt
from blob_pyro.posteriors.logits_of_contexts import LogitsOfContexts
from blob_pyro.propensity.kernels.contenders import Contenders, contenders

__all__ = ["ContendingSlates", "contending"]

_ALIKE = 8  # contexts that are drawn in at once: they differ in how many candidates they have


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
        number: of each candidate, ``n x C``.
        valid: which of these are any.
        loc: mean scores of the candidates, given the draw.
        scale: their standard deviations.

    Raises:
        ValueError: for a posterior that leaves an item's own logit no doubt.
    """

    def __init__(
        self, logits: LogitsOfContexts, shared: Tensor, mass_left_out: float, num_slots: int, allowed: Tensor | None
    ) -> None:
        require_own_doubt(logits.own_scale)
        found = contending(logits, shared, mass_left_out, num_slots, allowed)
        self.left_out, self.num_slots, self.number, self.valid = found.left_out, num_slots, found.number, found.valid
        some, place = found.number[found.valid].unique(return_inverse=True)
        place = torch.zeros_like(found.number).masked_scatter_(found.valid, place)
        few = logits.of_items(some).double()
        loc = few.given_shared(shared)
        self.loc, self.scale = (t.gather(1, place) for t in (loc, few.own_scale.expand_as(loc)))

    def _alike(self) -> Iterator[tuple[Tensor, NormalSlates]]:
        """Contexts with about as many candidates, and their slates: numbers are places among the candidates."""
        sizes = self.valid.sum(-1)
        for rows in sizes.argsort().split(_ALIKE):
            most = int(sizes[rows].amax())
            loc, scale, valid = (t[rows, :most] for t in (self.loc, self.scale, self.valid))
            yield rows, NormalSlates(loc, scale, valid, self.num_slots)

    def draw_known(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw slates, with propensities and their errors, ``n x L`` each; see `Slates.draw_known`."""
        item = self.number.new_empty(len(self.number), self.num_slots)
        propensity, error = (torch.empty_like(item, dtype=torch.float64) for _ in range(2))
        for rows, slates in self._alike():
            place, propensity[rows], error[rows] = slates.draw_known(generator)
            item[rows] = self.number[rows].gather(1, place)
        return item, propensity, error

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw slates, ``n x L`` item numbers."""
        item = self.number.new_empty(len(self.number), self.num_slots)
        for rows, slates in self._alike():
            item[rows] = self.number[rows].gather(1, slates.draw(generator))
        return item
