"""Poisson-binomial counts of the other items that an event has happened to, without each item in turn."""

import torch
from torch import Tensor

__all__ = ["product_of_others"]


def product_of_others(item: list[Tensor], num_ranks: int) -> list[Tensor]:
    """Compute P(k of the other items have come) for every item, ``... x A`` for each k below ``num_ranks``.

    A tree: products of neighbours upwards, then each node's rest of the product downwards.

    Args:
        item: coefficients of each item's polynomial: that it has not come, and that it has.
        num_ranks: degrees that are kept.
    """
    levels = [item]
    while levels[-1][0].shape[-1] > 1:
        level = levels[-1]
        if level[0].shape[-1] % 2:
            one = [torch.full_like(c[..., :1], float(k == 0)) for k, c in enumerate(level)]
            level = levels[-1] = [torch.cat(pair, -1) for pair in zip(level, one, strict=True)]
        levels.append(_times([c[..., 0::2] for c in level], [c[..., 1::2] for c in level], num_ranks))
    rest = [torch.ones_like(levels[-1][0])]
    for level in reversed(levels[:-1]):
        above = [c[..., : level[0].shape[-1] // 2] for c in rest]
        left = _times([c[..., 1::2] for c in level], above, num_ranks)
        right = _times([c[..., 0::2] for c in level], above, num_ranks)
        rest = [torch.stack(pair, -1).flatten(-2) for pair in zip(left, right, strict=True)]
    return [c[..., : item[0].shape[-1]] for c in rest]


def _times(one: list[Tensor], other: list[Tensor], num_ranks: int) -> list[Tensor]:
    """The product of polynomials by their coefficients, the first ``num_ranks`` of them."""
    product = []
    for k in range(min(len(one) + len(other) - 1, num_ranks)):
        lowest, highest = max(0, k - len(other) + 1), min(k, len(one) - 1)
        total = one[lowest] * other[k - lowest]
        for i in range(lowest + 1, highest + 1):
            total.addcmul_(one[i], other[k - i])
        product.append(total)
    return product
