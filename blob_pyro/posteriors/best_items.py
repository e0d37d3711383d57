"""The best item of each of many draws of the click logits, some contexts drawn more often than others.

Thompson sampling decides as often as users come back to the same context. All that a decision needs is which item is
best in a fresh draw, so nothing else is computed: the number that all items share is left out, what the items share is
drawn as one direction among the item embeddings, and contexts that are drawn about equally often are drawn together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from blob_pyro.posteriors.click_logits import ClickLogits

__all__ = ["best_each"]

_NUMBERS_AT_ONCE = 1 << 18  # of what the items share, in the directions of draws, and of logits that have to be padded
_LOGITS_AT_ONCE = 1 << 16  # so that what is drawn is still in cache when it is compared


@torch.no_grad()
def best_each(logits: ClickLogits, counts: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Draw the item with the highest logit ``counts[n]`` independent times for each context ``n``.

    Args:
        logits: of ``N`` contexts; every draw has parameters of its own, as those of `ClickLogits.rsample`.
        counts: how many draws, ``N`` int64, 0 or more.
        allowed: ``N x P`` booleans, which items may be the best; None for all.

    Returns:
        Item numbers, ``counts.sum()`` int64: all of the first context, then all of the second, and so on.
    """
    counts = counts.to(logits.interest.device)
    best = torch.empty(int(counts.sum()), dtype=torch.int64, device=counts.device)
    first = counts.cumsum(0) - counts
    order = counts.argsort(descending=True, stable=True)
    widths = counts[order].tolist()
    items = logits.item_embedding
    if not logits.have_own_betas:  # loadings are the same in every context
        items = torch.cat([items, logits.item_loadings], -1)
    items = items.mT.contiguous()  # (K + R) x P, or K x P
    at_once = max(1, _NUMBERS_AT_ONCE // (items.shape[1] if logits.have_own_betas else items.shape[0]))
    start, done = 0, 0  # contexts behind us, and how often the next one has been drawn
    while start < len(widths) and widths[start] > 0:
        width = min(widths[start] - done, at_once)
        size = 1 if done or width < widths[start] else max(1, at_once // width)
        rows = order[start : start + size]
        position = torch.arange(done, done + width, device=counts.device)
        wanted = (position < counts[rows, None]).flatten().nonzero().squeeze(1)
        place = (first[rows, None] + position).flatten().index_select(0, wanted)
        few = None if allowed is None else allowed[rows]
        if logits.have_own_betas:
            found = _best_of_own_betas(logits[rows], items, width, few).flatten().index_select(0, wanted)
        else:
            direction, shared = _directions(logits[rows], width)
            numbers = torch.cat([direction, shared], -1).flatten(0, 1).index_select(0, wanted)
            found = _best(logits, items, numbers, wanted // width, few)
        best.index_copy_(0, place, found)
        done = done + width if done + width < widths[start] else 0
        start += 0 if done else len(rows)
    return best


def _directions(logits: ClickLogits, width: int) -> tuple[Tensor, Tensor]:
    """Draws of what the items share: what their embeddings are multiplied by, ``N x width x K``, and their loadings."""
    factors = logits.interest.new_empty(len(logits.interest), width, logits.num_factors).normal_()
    along, across, of_zeta, shared = logits.split(factors)
    deviation = logits.deviation_loc.unsqueeze(-2)
    if of_zeta is not None:
        deviation = torch.baddbmm(deviation, of_zeta, logits.deviation_factor.mT)
    if logits.num_shared:
        deviation = deviation + shared @ logits.deviation_shared.mT
    direction = torch.addcmul(across.unsqueeze(-1) * deviation, along.unsqueeze(-1), logits.interest.unsqueeze(-2))
    return direction, shared


def _best(logits: ClickLogits, items: Tensor, numbers: Tensor, context: Tensor, allowed: Tensor | None) -> Tensor:
    """The best items of as many draws, ``M x (K + R)``, of which ``allowed`` names the candidates in their contexts."""
    size = max(1, _LOGITS_AT_ONCE // items.shape[1])
    whole = numbers.new_empty(2, min(size, len(numbers)), items.shape[1])
    found = []
    for part, where in zip(numbers.split(size), context.split(size)):
        scores, noise = whole[:, : len(part)].unbind()
        torch.addmm(logits.own_loc, part, items, out=scores)
        scores.addcmul_(noise.normal_(), logits.own_scale)
        if allowed is not None:
            scores.masked_fill_(~allowed.index_select(0, where), -torch.inf)
        found.append(scores.argmax(-1))
    return torch.cat(found)


def _best_of_own_betas(logits: ClickLogits, items: Tensor, width: int, allowed: Tensor | None) -> Tensor:
    """Where what an item adds by itself depends on the context: ``N x width`` item numbers."""
    direction, shared = _directions(logits, width)
    scores = torch.baddbmm(logits.own_loc.unsqueeze(-2), shared, logits.item_loadings.mT)
    scores += direction @ items
    scores = scores.addcmul_(torch.empty_like(scores).normal_(), logits.own_scale.unsqueeze(-2))
    if allowed is not None:
        scores = scores.masked_fill_(~allowed.unsqueeze(-2), -torch.inf)
    return scores.argmax(-1)
