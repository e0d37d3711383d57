"""Correlated normal scores to compute with."""

import torch

DRAWS = 400_000


def _problem(num_actions, rank, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    loc, factor = 0.7 * normal(num_actions), normal(num_actions, rank) / rank**0.5
    diagonal = noise * (0.5 + torch.rand(num_actions, dtype=torch.float64, generator=generator))
    return loc, factor, diagonal


def _frequencies(loc, factor, diagonal):
    """Counts of winners among draws that the library has no part in."""
    generator = torch.Generator().manual_seed(99)
    counts = torch.zeros_like(loc)
    for _ in range(8):
        shared = torch.randn(DRAWS // 8, factor.shape[-1], dtype=torch.float64, generator=generator)
        own = torch.randn(DRAWS // 8, len(loc), dtype=torch.float64, generator=generator)
        scores = loc + shared @ factor.T + own * diagonal.sqrt()
        counts += torch.bincount(scores.argmax(-1), minlength=len(loc))
    return counts / DRAWS
