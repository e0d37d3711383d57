"""Scores that are drawn to twice the working precision, so that large locations do not round them into ties."""

import torch
from torch import Tensor

# Above this size numbers are shrunk, so that their sums are finite.
_LARGE, _SHRINK = 1e300, 2.0**-64


def two_sum(loc: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Add loc and deviation (both ... x A, float64) as a rounded sum and what was rounded away (Knuth).

    Rows with very large numbers are shrunk: only the order of the sums is meant to be looked at.
    """
    large = torch.maximum(loc.abs(), deviation.abs()).amax(-1, keepdim=True) > _LARGE
    shrink = torch.where(large, _SHRINK, 1.0)
    loc, deviation = loc * shrink, deviation * shrink
    total = loc + deviation
    back = total - loc
    return total, (loc - (total - back)) + (deviation - back)


def draw_normals(loc: Tensor, scale: Tensor, sample_shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Draw independent normal scores in two parts, sample_shape x loc's shape each."""
    loc, scale = loc.detach().double(), scale.detach().double()
    return two_sum(loc, scale * loc.new_empty(sample_shape + loc.shape).normal_())


def best_index(scores: tuple[Tensor, ...], minimum: bool) -> Tensor:
    """Find the index of the largest (smallest) along the last dimension, of scores given by parts, leading one first.

    What ties in all parts is drawn from.
    """
    best: Tensor | None = None
    for part in scores:
        part = -part if minimum else part
        part = part if best is None else torch.where(best, part, -torch.inf)
        best = part == part.amax(-1, keepdim=True)
    assert best is not None
    if bool((best.sum(-1) > 1).any()):
        return torch.where(best, torch.rand(best.shape, device=best.device), -1.0).argmax(-1)
    return best.to(torch.uint8).argmax(-1)


def best_indices(scores: tuple[Tensor, ...], count: int, minimum: bool) -> Tensor:
    """Find the indices of the `count` largest (smallest) along the last dimension, the best one first."""
    order: Tensor | None = None
    for part in reversed(scores):
        part = part if minimum else -part
        part = part if order is None else part.gather(-1, order)
        again = part.argsort(dim=-1, stable=True)
        order = again if order is None else order.gather(-1, again)
    assert order is not None
    return order[..., :count]
