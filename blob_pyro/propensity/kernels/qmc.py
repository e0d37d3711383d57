"""Randomised quasi-Monte Carlo: independent scramblings of one low-discrepancy sequence."""

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

_HALF_CELL = 2.0**-31


def uniform_replicates(num_replicates: int, num_points: int, dim: int, seed: int, device: torch.device) -> Tensor:
    """Draw num_replicates x num_points x dim scrambled Sobol points in (0, 1), float64.

    The replicates are independent and each is unbiased, so that the spread of their means is an honest standard
    error. `num_points` should be a power of two.
    """
    if dim == 0:
        return torch.empty(num_replicates, num_points, 0, dtype=torch.float64, device=device)
    # Points are constants to torch.func, whose tensors the engine cannot write to; torch has no public way to say so.
    with torch._C._DisableFuncTorch():
        seeds = torch.randint(2**62, (num_replicates,), generator=torch.Generator().manual_seed(seed)).tolist()
        draws = [SobolEngine(dim, scramble=True, seed=s).draw(num_points, dtype=torch.float64) for s in seeds]
    # The engine returns the lower corners of cells of size 2^-30: use their centres.
    return (torch.stack(draws) + _HALF_CELL).to(device)


def normal_replicates(num_replicates: int, num_points: int, dim: int, seed: int, device: torch.device) -> Tensor:
    """Draw num_replicates x num_points x dim scrambled Sobol points as standard normal numbers, float64."""
    result: Tensor = torch.special.ndtri(uniform_replicates(num_replicates, num_points, dim, seed, device))
    return result


def mean_and_error(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the first dimension and its standard error."""
    return replicates.mean(0), replicates.detach().std(0) / replicates.shape[0] ** 0.5


def summing_to_one(replicates: Tensor) -> Tensor:
    """Correct replicates of probabilities (R x ... x A) by what their sum misses, the less known ones by more of it.

    In proportion to their variances: least squares, as if the errors of different actions were independent.
    """
    variance = replicates.var(0)
    share = variance / variance.sum(-1, keepdim=True).clamp_min(torch.finfo(replicates.dtype).tiny)
    return replicates + share * (1 - replicates.sum(-1, keepdim=True))
