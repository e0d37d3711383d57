"""What several tests of slates ask, and of whom."""

import itertools

import torch


def by_enumeration(distribution, row):
    """P(item, slot) of one context: over all ordered slates, by the distribution's own next step."""
    found = torch.zeros(distribution.num_items, distribution.num_slots, dtype=torch.float64)
    for slate in itertools.permutations(range(distribution.num_items), distribution.num_slots):
        left, chance = distribution.mask().clone(), 1.0
        for item in slate:
            step = distribution.next_probs(left)[row]
            chance *= float(step[item] / step.sum()) if step[item] > 0 else 0.0
            left[:, item] = False
            if not chance:
                break
        for slot, item in enumerate(slate):
            found[item, slot] += chance
    return found


def every(distribution, size):
    return distribution.rank_probs(torch.arange(distribution.num_items).expand(size, -1))


INF = float("inf")


SCORES = torch.tensor(
    [
        [0.1, 2.0, -1.0, 0.5, 0.3],
        [1.0, 1.0, 0.0, 1.0, 0.0],
        [0.0, -INF, 0.5, 0.5, -2.0],
        [0.0] * 5,
        [3.0, 1, -INF, -INF, 2],
    ]
)
