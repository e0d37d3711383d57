"""P(argmax) of jointly normal scores as Gaussian orthant probabilities, one per action.

Action i wins when the A - 1 differences Y_j - Y_i are all negative: a multivariate normal CDF at the differences of
the means (Jeunen 2025, eq. 6, with the covariance that scores really have). Each is computed by Genz's separation of
variables (A. Genz, "Numerical computation of multivariate normal probabilities", 1992) with the most demanding
conditions first (Gibson, Glasbey and Elston, 1994): a greedy pivoted Cholesky factorisation, then quasi-Monte Carlo
over A - 2 truncated normals, the last one being integrated in closed form.
"""

import math

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.functions import normal_cdf
from blob_pyro.propensity.kernels.qmc import uniform_replicates

# Relative to the largest standard deviation: a smaller conditional spread is rounding and counts as zero.
_SMALLEST_SPREAD = 1e-6
_SMALLEST = 1e-300
# A difference with less than this share of the variances is rounding.
_ROUNDING = 1e-15
_BLOCK = 2**16


def _differences(loc: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Upper limits (B A) x (A - 1) and covariances of Y_j - Y_i, j != i, for loc B x A."""
    num_actions = loc.shape[-1]
    index = torch.arange(num_actions, device=loc.device)
    others = torch.stack([index[index != i] for i in range(num_actions)])
    limit = loc[:, :, None] - loc[:, others]
    of_others = covariance[:, others[:, :, None], others[:, None, :]]
    with_own = covariance[:, index[:, None], others]
    own = covariance.diagonal(dim1=-2, dim2=-1)
    difference = of_others - with_own[..., None, :] - with_own[..., :, None] + own[..., None, None]
    # In units of each difference's own standard deviation, so that none is small by the measure of another.
    variance = difference.diagonal(dim1=-2, dim2=-1).detach()
    total = own[..., None] + of_others.diagonal(dim1=-2, dim2=-1)
    spread = variance.maximum(_ROUNDING * total.detach()).clamp_min(_SMALLEST).sqrt()
    difference = difference / spread[..., :, None] / spread[..., None, :]
    return (limit / spread).flatten(0, 1), difference.flatten(0, 1)


def _greedy_order(limit: Tensor, covariance: Tensor) -> Tensor:
    """The order, N x d, in which each next variable is the least likely to satisfy its condition."""
    problems, dim = limit.shape
    row = torch.arange(problems, device=limit.device)
    order = torch.arange(dim, device=limit.device).repeat(problems, 1)
    chosen = torch.zeros_like(limit, dtype=torch.bool)
    variance = covariance.diagonal(dim1=-2, dim2=-1).clone()
    floor = _SMALLEST_SPREAD * variance.amax(-1, keepdim=True).sqrt().clamp_min(_SMALLEST)
    shift = torch.zeros_like(limit)
    factors = torch.zeros_like(covariance)
    for step in range(dim):
        spread = variance.clamp_min(0).sqrt().maximum(floor)
        standard = (limit - shift) / spread
        pick = torch.where(chosen, math.inf, standard).argmin(-1)
        order[:, step] = pick
        chosen[row, pick] = True
        column = covariance[row, :, pick] - torch.einsum("njk,nk->nj", factors[..., :step], factors[row, pick, :step])
        pivot = spread[row, pick, None]
        column = torch.where(pivot > floor, column / pivot, 0.0)
        at = standard[row, pick]
        expected = -torch.exp(-at.square() / 2 - torch.special.log_ndtr(at)) / math.sqrt(2 * math.pi)
        factors[..., step] = column
        shift = shift + column * expected[:, None]
        variance = variance - column.square()
    return order


def _ordered_cholesky(limit: Tensor, covariance: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Limits and lower Cholesky rows in the given order; a vanishing pivot becomes a tiny spread."""
    dim = limit.shape[-1]
    limit = limit.gather(-1, order)
    covariance = covariance.gather(1, order[:, :, None].expand(-1, -1, dim))
    covariance = covariance.gather(2, order[:, None, :].expand(-1, dim, -1))
    largest = covariance.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(_SMALLEST**0.5)
    columns: list[Tensor] = []
    for step in range(dim):
        column = covariance[:, :, step]
        if columns:
            before = torch.stack(columns, dim=-1)
            column = column - (before * before[:, step : step + 1]).sum(-1)
        floor = _SMALLEST_SPREAD**2 * largest
        pivot = column[:, step].maximum(floor).sqrt()
        # What a vanishing pivot leaves below it is rounding, which dividing would blow up.
        remaining = (torch.arange(dim, device=limit.device) > step) & (column[:, step] > floor)[:, None]
        below = torch.where(remaining, column / pivot[:, None], 0.0)
        columns.append(
            below + torch.nn.functional.one_hot(torch.tensor(step, device=limit.device), dim) * pivot[:, None]
        )
    return limit, torch.stack(columns, dim=-1)


def _separation_of_variables(limit: Tensor, factor: Tensor, uniform: Tensor) -> Tensor:
    """N x R: the mean over points of R x n x (d - 1) uniforms of the product of conditional probabilities."""
    replicates, points, _ = uniform.shape
    problems, dim = limit.shape
    flat = uniform.flatten(0, 1).T
    product: Tensor | None = None
    differentiable = factor.requires_grad or limit.requires_grad
    drawn: list[Tensor] = []
    # Without a graph to keep, the draws can be written side by side as they come.
    beside = limit.new_empty(0 if differentiable else problems, dim - 1, replicates * points)
    for step in range(dim):
        bound = limit[:, step, None].expand(-1, replicates * points)
        if step > 0:
            before = torch.stack(drawn, dim=1) if differentiable else beside[:, :step]
            bound = bound - torch.bmm(factor[:, step : step + 1, :step], before).squeeze(1)
        probability = normal_cdf(bound / factor[:, step, step, None]).clamp_min(_SMALLEST)
        product = probability if product is None else product * probability
        if step < dim - 1:
            draw = torch.special.ndtri((probability * flat[step]).clamp(_SMALLEST, 1 - 1e-16))
            if differentiable:
                drawn.append(draw)
            else:
                beside[:, step] = draw
    assert product is not None
    result: Tensor = product.unflatten(-1, (replicates, points)).mean(-1)
    return result


def argmax_probs_by_orthants(
    loc: Tensor, covariance: Tensor, num_replicates: int, num_points: int, seed: int
) -> Tensor:
    """Estimate every action's probability, replicated.

    Args:
        loc: B x A, at least two actions.
        covariance: B x A x A, positive semi-definite.
        num_replicates: R, independent randomisations.
        num_points: points in each.
        seed: of the randomisations.

    Returns:
        R x B x A. Each replicate is unbiased; differentiable along the sampled paths.
    """
    num_actions = loc.shape[-1]
    uniform = uniform_replicates(num_replicates, num_points, num_actions - 2, seed, loc.device)
    per_replicate = num_points * num_actions
    rows = max(1, _BLOCK // (per_replicate * num_replicates))
    results = []
    for start in range(0, loc.shape[0], rows):
        limit, difference = _differences(loc[start : start + rows], covariance[start : start + rows])
        order = _greedy_order(limit.detach(), difference.detach())
        limit, factor = _ordered_cholesky(limit, difference, order)
        group = max(1, _BLOCK // (num_points * limit.shape[0]))
        parts = [
            _separation_of_variables(limit, factor, uniform[r : r + group]) for r in range(0, num_replicates, group)
        ]
        results.append(torch.cat(parts, dim=-1).T.unflatten(-1, (-1, num_actions)))
    return torch.cat(results, dim=1)
