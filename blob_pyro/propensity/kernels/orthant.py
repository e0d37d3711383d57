"""P(argmax) of jointly normal scores as Gaussian orthant probabilities, one per action.

Action i wins when the A - 1 differences Y_j - Y_i are all negative: a multivariate normal CDF at the differences of
the means (Jeunen 2025, eq. 6, with the covariance that scores really have). Each is computed by Genz's separation of
variables (A. Genz, "Numerical computation of multivariate normal probabilities", 1992) with the most demanding
conditions first (Gibson, Glasbey and Elston, 1994): a greedy pivoted Cholesky factorisation, then quasi-Monte Carlo
over A - 2 truncated normals, the last one being integrated in closed form. The normals are shifted by Botev's minimax
tilting (`blob_pyro.propensity.kernels.tilting`), which makes the relative error of rare actions that of common ones.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from blob_pyro.propensity.kernels.functions import WithoutVmap
from blob_pyro.propensity.kernels.qmc import uniform_replicates
from blob_pyro.propensity.kernels.tilting import minimax_tilt

# Relative to the largest standard deviation: a smaller conditional spread is rounding and counts as zero.
_SMALLEST_SPREAD = 1e-6
_SMALLEST = 1e-300
# A difference with less than this share of the variances is rounding.
_ROUNDING = 1e-15
_BLOCK = 2**16
# Elements that a block's graph may have, for each action's matrix.
_GRAPH = 2**25
# From so many dimensions on the error of the sample is far above rounding to single precision.
_SINGLE = 8
# Single precision bears conditional means that rise so steeply in what came before, and points tilted so far (squared).
_STEEP, _FAR = 1e3, 64.0
# Quantiles of less are computed in the tail.
_TAIL = {torch.float32: 2e-3, torch.float64: 1e-9}


def _differences(loc: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Upper limits (B A) x (A - 1) and covariances of Y_j - Y_i, j != i, for loc B x A."""
    num_actions = loc.shape[-1]
    index = torch.arange(num_actions, device=loc.device)
    others = index[:-1] + (index[:-1] >= index[:, None])
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


def _quantile(twice: Tensor) -> Tensor:
    """The standard normal quantile of half of ``twice``, over the root of 2; in place of its argument."""
    tiny = torch.finfo(twice.dtype).tiny
    if twice.device.type != "cpu":
        # One kernel, and no look at the values.
        anywhere: Tensor = torch.special.ndtri(0.5 * twice.clamp(tiny, 2 - 2 * torch.finfo(twice.dtype).eps))
        return anywhere.mul_(math.sqrt(0.5))
    tail = _TAIL[twice.dtype]
    low = (twice < tail).flatten().nonzero().squeeze(-1)
    # What subtracting 1 rounds away.
    exact = torch.special.ndtri(0.5 * twice.view(-1)[low].clamp_min(tiny)) * math.sqrt(0.5)
    quantile = twice.sub_(1.0).clamp_(max=1 - torch.finfo(twice.dtype).eps).erfinv_()
    quantile.view(-1)[low] = exact
    return quantile


def _separation_of_variables(
    limit: Tensor, factor: Tensor, tilt: Tensor, uniform: Tensor, keeps_graph: bool = False
) -> Tensor:
    """N x R: the mean over points of R x n x (d - 1) uniforms of the product of conditional probabilities.

    Variables are drawn from normals shifted by ``tilt`` (N x d), and points are weighted for it. All is in units of the
    root of 2 and seen from the shifts, so that the loop has little to do beside its two transcendental functions.
    """
    replicates, points, _ = uniform.shape
    problems, dim = limit.shape
    flat = uniform.flatten(0, 1).T
    pivot = factor.diagonal(dim1=-2, dim2=-1)
    slope = factor.tril(-1) / pivot[..., None]
    start = math.sqrt(0.5) * (tilt + (slope @ tilt[..., None]).squeeze(-1) - limit / pivot)[..., None]
    drawn: list[Tensor] = []
    # Without a graph to keep, the draws can be written side by side as they come.
    beside = limit.new_empty(0 if keeps_graph else problems, dim - 1, replicates * points)
    product: Tensor | None = None
    for step in range(dim):
        bound = start[:, step : step + 1].expand(-1, -1, replicates * points)
        if step > 0:
            before = torch.stack(drawn, dim=1) if keeps_graph else beside[:, :step]
            bound = torch.baddbmm(bound, slope[:, step : step + 1, :step], before)
        twice = torch.erfc(bound.squeeze(1))
        product = 0.5 * twice if product is None else product * (0.5 * twice)
        if step == dim - 1:
            break
        if keeps_graph:
            q = (0.5 * twice * flat[step]).clamp(_SMALLEST, 1 - 1e-16)
            drawn.append(torch.special.ndtri(q) * math.sqrt(0.5))
        else:
            beside[:, step] = _quantile(twice.mul_(flat[step]))
    assert product is not None
    if dim > 1:
        before = torch.stack(drawn, dim=1) if keeps_graph else beside
        log_weight = torch.bmm(-math.sqrt(2) * tilt[:, None, :-1], before).squeeze(1)
        log_weight = log_weight - 0.5 * tilt.square().sum(-1, keepdim=True)
        # No probability is left where the weight overflows: the product has underflowed to 0 before.
        product = product * log_weight.clamp_max(math.log(torch.finfo(product.dtype).max) - 1).exp()
    result: Tensor = product.unflatten(-1, (replicates, points)).mean(-1, dtype=torch.float64)
    return result


def _blocks(uniform: Tensor, at_once: int) -> Iterator[tuple[slice, Tensor, float]]:
    """As many replicates as have ``at_once`` points, or such parts of one; which ones, and their share of the mean."""
    replicates, points, _ = uniform.shape
    group = max(1, at_once // points)
    for first in range(0, replicates, group):
        which = slice(first, first + group)
        for part in uniform[which].split(max(1, at_once), dim=1):
            yield which, part, part.shape[1] / points


def _means(limit: Tensor, factor: Tensor, tilt: Tensor, uniform: Tensor) -> Tensor:
    """N x R, without a graph."""
    result = limit.new_zeros(limit.shape[0], uniform.shape[0], dtype=torch.float64)
    for which, part, share in _blocks(uniform, _BLOCK // limit.shape[0]):
        result[:, which] += _separation_of_variables(limit, factor, tilt, part) * share
    return result


class _DifferentiableMeans(WithoutVmap):
    """`_means` whose derivatives compute each block again, so that no graph of all points has to be kept."""

    @staticmethod
    def forward(limit: Tensor, factor: Tensor, tilt: Tensor, uniform: Tensor) -> Tensor:
        """N x R."""
        return _means(limit, factor, tilt, uniform)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the points are computed from."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate along the sampled paths."""
        *parameters, uniform = ctx.saved_tensors
        problems, dim = parameters[0].shape
        totals = [torch.zeros_like(parameter) for parameter in parameters]
        for which, part, share in _blocks(uniform, min(_BLOCK, _GRAPH // dim**2) // problems):

            def of_part(limit: Tensor, factor: Tensor, tilt: Tensor, points: Tensor = part) -> Tensor:
                return _separation_of_variables(limit, factor, tilt, points, keeps_graph=True)

            _, pull_back = torch.func.vjp(of_part, *parameters)[:2]
            parts: tuple[Tensor, ...] = pull_back(gradient[:, which] * share)
            totals = [total + one for total, one in zip(totals, parts)]
        return (*totals, None)


def _replicates(limit: Tensor, factor: Tensor, tilt: Tensor, uniform: Tensor) -> Tensor:
    """N x R; on a CPU in single precision where its rounding is far below the error of any sample: twice as fast."""
    if factor.requires_grad or limit.requires_grad:
        means: Tensor = _DifferentiableMeans.apply(limit, factor, tilt, uniform)  # type: ignore[no-untyped-call]
        return means
    if limit.device.type != "cpu" or limit.shape[-1] < _SINGLE:
        return _means(limit, factor, tilt, uniform)
    steepest = (factor.abs().amax(-1) / factor.diagonal(dim1=-2, dim2=-1)).amax(-1)
    single = (steepest < _STEEP) & (tilt.square().sum(-1) < _FAR) & tilt.any(-1)
    result = limit.new_empty(limit.shape[0], uniform.shape[0])
    for some, dtype in ((single, torch.float32), (~single, torch.float64)):
        if bool(some.any()):
            result[some] = _means(
                limit[some].to(dtype), factor[some].to(dtype), tilt[some].to(dtype), uniform.to(dtype)
            )
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
    rows = max(1, _BLOCK // (num_points * num_actions * num_replicates))
    results = []
    for start in range(0, loc.shape[0], rows):
        limit, difference = _differences(loc[start : start + rows], covariance[start : start + rows])
        order = _greedy_order(limit.detach(), difference.detach())
        limit, factor = _ordered_cholesky(limit, difference, order)
        replicates = _replicates(limit, factor, minimax_tilt(limit, factor), uniform)
        results.append(replicates.T.unflatten(-1, (-1, num_actions)))
    return torch.cat(results, dim=1)
