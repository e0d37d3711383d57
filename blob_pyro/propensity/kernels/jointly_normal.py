"""Ways to compute P(argmax) of jointly normal scores, each with its error, and the choice between them.

Every way takes flat batches (B rows), returns probabilities and absolute errors (both B x A), and is differentiable.

=============  =====================================  =====================================================
way            when it is chosen                      error
=============  =====================================  =====================================================
independent    no correlation                         rounding
exact          at most 3 actions                      rounding
envelope       no noise of their own, and A <= 512    0 for one factor, else standard error of replicates; rare
                                                      actions have points of their own
quadrature     at most 2 factors, noise not small     from a rule with half the nodes
orthants       at most 128 actions                    standard error of replicates, relative: alike for all actions
conditional    everything else                        standard error of replicates
=============  =====================================  =====================================================

Orthants know rare actions as well as common ones. Setting them up takes time like A^4, two seconds at 150 actions,
which is why there is an end to them. The last way is Rao-Blackwellised quasi-Monte Carlo: where the noise of the single
scores is small against what they share it is hardly better than counting winners, and most rare actions come out too
small; its error estimate says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.propensity.argmax_conditionally_normal import mix_conditional_probs
from blob_pyro.propensity.kernels.envelope import argmax_probs_by_envelope
from blob_pyro.propensity.kernels.few_actions import argmax_probs_of_three, argmax_probs_of_two
from blob_pyro.propensity.kernels.normal import QUICK, argmax_normal_log_probs
from blob_pyro.propensity.kernels.orthant import argmax_probs_by_orthants
from blob_pyro.propensity.kernels.qmc import mean_and_error, normal_replicates, summing_to_one
from blob_pyro.propensity.kernels.rare_winners import pairwise_bound, rare_winner_probs

_ORTHANT_ACTIONS = 128
# Up to so many actions orthants are better than envelopes of more than 3 factors.
_FEW_ACTIONS = 24
_ENVELOPE_ACTIONS = 512
# Chosen up to this size of the grid, and possible up to the larger one.
_QUADRATURE_NODES = 1024
_LARGEST_GRID = 2**16
# The inner accuracy of averages over shared normals, see QUICK.
_INNER_ERROR = 1e-8
# Relative to each variance; shared directions of its size are noise.
_JITTER = 1e-10
# Standard deviations below its location that a score is taken to reach.
_REACH = 12.0
# A difference with less than this share of the variances is rounding.
_SAME = 1e-15
_IDLE = 3e-5
# An action that no more than so many points show, nor so large a share of them, is not known from the points of all
# actions; one that a rival alone leaves less than this is not asked for: 0, with an error of no more than this.
_FEW_POINTS, _RARE, _NEGLIGIBLE = 8, 0.01, 1e-30
# Relative standard error of an estimate that too few replicates have seen.
_UNSURE = 0.3


@dataclass(frozen=True)
class Sampling:
    """Randomised quasi-Monte Carlo: `num_replicates` scramblings of `num_points` points."""

    num_points: int
    num_replicates: int
    seed: int


@dataclass(frozen=True)
class JointlyNormal:
    """Scores loc + factor z + sqrt(diagonal) e with independent standard normals z and e.

    Attributes:
        loc: B x A.
        factor: B x A x K.
        diagonal: B x A, variances.
        matrix: B x A x A, the covariance, where the factor was derived from it.
    """

    loc: Tensor
    factor: Tensor
    diagonal: Tensor
    matrix: Tensor | None = None

    @classmethod
    def from_covariance(cls, loc: Tensor, covariance: Tensor) -> "JointlyNormal":
        """Give each score as much noise of its own as the covariance allows, and factorise the rest.

        The noise is a fraction c of each variance, c a little below the smallest eigenvalue of the correlations, in
        which scores of all scales count alike.
        """
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        still = variance.detach() == 0
        deviation = torch.where(still, 1.0, variance.detach()).sqrt()
        correlation = covariance / deviation[..., :, None] / deviation[..., None, :]
        # A score that does not vary has no part in the correlations.
        correlation = correlation + torch.diag_embed(still.to(correlation.dtype))
        smallest = torch.linalg.eigvalsh(correlation.detach())[..., :1]
        share = torch.where(smallest < 1e-6, 0.0, 0.99 * smallest)
        # A singular matrix has eigenvalues that rounding (of the caller's dtype) made negative.
        jitter = (_JITTER - 2 * smallest.clamp_max(0) - share).expand_as(variance)
        factor = torch.linalg.cholesky(correlation + torch.diag_embed(jitter))
        factor = factor * torch.where(still, 0.0, deviation)[..., None]
        return cls(loc, factor, share * variance, covariance)

    def normalized(self) -> "JointlyNormal":
        """Return the same argmax, seen from a score that can be the best, in units of the largest deviation.

        Any shift and any unit, the same for all actions, leave the probabilities as they are.
        """
        deviation = self.deviation.detach()
        largest = deviation.amax(-1, keepdim=True)
        unit = torch.where(largest > 0, largest / torch.frexp(largest).mantissa, 1.0)
        highest = (self.loc.detach() - _REACH * deviation).argmax(-1, keepdim=True)
        limit = torch.finfo(self.loc.dtype).max / 4
        # Of very large numbers the differences are infinite.
        shrink = torch.where(
            torch.maximum(self.loc.detach().abs(), deviation).amax(-1, keepdim=True) > limit, 0.125, 1.0
        )
        loc = self.loc * shrink
        loc = ((loc - loc.gather(-1, highest)) / (unit * shrink)).clamp(-limit, limit)
        matrix = None if self.matrix is None else self.matrix / unit[..., None] / unit[..., None]
        return JointlyNormal(loc, self.factor / unit[..., None], self.diagonal / unit / unit, matrix)

    @property
    def deviation(self) -> Tensor:
        """The standard deviations, B x A."""
        largest = self.factor.detach().abs().amax(-1).clamp_min(torch.finfo(self.loc.dtype).tiny)
        shared = (self.factor / largest[..., None]).square().sum(-1).sqrt() * largest
        return torch.hypot(shared, self.diagonal.sqrt())

    @property
    def covariance(self) -> Tensor:
        """The covariance in full, B x A x A."""
        if self.matrix is not None:
            return self.matrix
        return self.factor @ self.factor.mT + torch.diag_embed(self.diagonal)

    def rotated(self) -> "JointlyNormal":
        """Return the same differences with the strongest shared direction first and idle directions dropped.

        What all scores share does not matter: the factor is centred, at a mean to which a score counts the less the
        more it varies. The rotation is no function of the parameters (any orthogonal one is right), so that its
        derivative never enters.
        """
        precision = self.deviation.detach().clamp_min(1e-100).square().reciprocal()
        weights = precision / precision.sum(-1, keepdim=True)
        factor = self.factor - (weights[..., None] * self.factor).sum(-2, keepdim=True)
        own = torch.hypot(factor.detach().square().sum(-1).sqrt(), self.diagonal.detach().sqrt()).clamp_min(1e-300)
        _, _, directions = torch.linalg.svd(factor.detach(), full_matrices=False)
        loading = (factor.detach() @ directions.mT).abs() / own[..., None]
        kept = max(1, int((loading > _IDLE).flatten(0, -2).any(0).sum()))
        return JointlyNormal(self.loc, factor @ directions.mT[..., :kept], self.diagonal)


def _without_copies(scores: JointlyNormal) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores that are always the same as an earlier one are put out of reach.

    Returns:
        B x A locations and B x A x A covariances without copies; the index of each score's original and how many
        scores have the same one (both B x A).
    """
    covariance, loc = scores.covariance, scores.loc
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    total = variance[..., :, None] + variance[..., None, :]
    same = (total - 2 * covariance).detach() <= _SAME * total.detach()
    same = same & (loc[..., :, None] == loc[..., None, :])
    original = same.to(torch.uint8).argmax(-1)
    count = torch.zeros_like(loc).scatter_add(-1, original, torch.ones_like(loc)).gather(-1, original)
    copy = original != torch.arange(loc.shape[-1], device=loc.device)
    both = copy[..., :, None] | copy[..., None, :]
    covariance = torch.where(both, torch.diag_embed(copy.to(loc.dtype)), covariance)
    return torch.where(copy, -torch.finfo(loc.dtype).max / 8, loc), covariance, original, count


def _independent(scores: JointlyNormal, sampling: Sampling) -> tuple[Tensor, Tensor]:
    probs = argmax_normal_log_probs(scores.loc, scores.diagonal.sqrt()).exp()
    return probs, torch.full_like(probs, 4 * torch.finfo(torch.float64).eps)


def _exact(scores: JointlyNormal, sampling: Sampling) -> tuple[Tensor, Tensor]:
    num_actions = scores.loc.shape[-1]
    if num_actions > 3:
        raise ValueError(f'method="exact" is for up to 3 actions, not {num_actions}. Leave the choice to the default.')
    if num_actions == 1:
        probs = torch.ones_like(scores.loc)
    elif num_actions == 2:
        probs = argmax_probs_of_two(scores.loc, scores.covariance)
    else:
        loc, covariance, original, count = _without_copies(scores)
        probs = argmax_probs_of_three(loc, covariance).gather(-1, original) / count
    return probs, torch.full_like(probs, 4 * torch.finfo(torch.float64).eps)


def _envelope(scores: JointlyNormal, sampling: Sampling) -> tuple[Tensor, Tensor]:
    rotated = scores.rotated()
    replicates = argmax_probs_by_envelope(
        rotated.loc, rotated.factor, sampling.num_replicates, sampling.num_points, sampling.seed
    )
    if rotated.factor.shape[-1] == 1:
        return mean_and_error(replicates)
    return _with_rare_winners(rotated, replicates, sampling)


def _with_rare_winners(rotated: JointlyNormal, replicates: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Give actions that hardly any point shows points of their own, at the others' expense."""
    loc, factor = rotated.loc, rotated.factor
    shown, size = replicates.detach().mean(0), sampling.num_points * sampling.num_replicates
    bound = pairwise_bound(loc, factor)
    row, action = ((shown < min(_FEW_POINTS / size, _RARE)) & (bound > _NEGLIGIBLE)).nonzero(as_tuple=True)
    if not len(row):
        return mean_and_error(replicates)
    points = max(8, sampling.num_points // 4)
    draws = normal_replicates(sampling.num_replicates, points, factor.shape[-1] - 1, sampling.seed + 1, loc.device)
    rare = torch.zeros_like(replicates).index_put(
        (torch.arange(len(replicates), device=loc.device)[:, None], row, action),
        rare_winner_probs(loc[row], factor[row], action, draws),
    )
    is_rare = torch.zeros_like(shown, dtype=torch.bool).index_put((row, action), torch.tensor(True, device=loc.device))
    known = torch.where(is_rare, 0.0, replicates)
    left = (1 - rare.sum(-1, keepdim=True)).clamp_min(0) / known.sum(-1, keepdim=True).clamp_min(1e-300)
    probs, error = mean_and_error(known * left + rare)
    # What its own points do not show either.
    return probs, torch.where(is_rare & (probs.detach() <= 0), _unseen(loc, factor, None, size), error)


def _unseen(loc: Tensor, factor: Tensor, diagonal: Tensor | None, size: int) -> Tensor:
    """B x A: how likely an action may be that none of ``size`` points shows: 3 / size (Hanley, Lippman-Hand 1983)."""
    return pairwise_bound(loc, factor, diagonal).clamp_max(3 / size)


def _orthants(scores: JointlyNormal, sampling: Sampling) -> tuple[Tensor, Tensor]:
    loc, covariance, original, count = _without_copies(scores)
    replicates = argmax_probs_by_orthants(loc, covariance, sampling.num_replicates, sampling.num_points, sampling.seed)
    return mean_and_error(summing_to_one(replicates.gather(-1, original.expand_as(replicates)) / count))


def _steps(rotated: JointlyNormal) -> list[float]:
    """The step of a trapezoidal rule in each shared direction.

    As a function of z a conditional probability changes over w = sqrt(d_i + d_j) / |f_i - f_j|; the rule's error for a
    Gaussian of that width is e^(-2 (pi w / step)^2).
    """
    noise = (2 * rotated.diagonal.detach().amin(-1)).sqrt()
    factor = rotated.factor.detach()
    reach = factor.amax(-2) - factor.amin(-2)
    width = noise[:, None] / reach.clamp_min(1e-300)
    steps = (0.9 * width / (1 + width.square()).sqrt().clamp_min(1e-300)).clamp_max(0.9).amin(0)
    # One by one: under torch.func.grad torch 2.5 reads single values only.
    return [step.item() for step in steps]


def _nodes(step: float) -> Tensor:
    half = math.ceil(6.6 / max(step, 1e-6) / 2) * 2
    return torch.arange(-half, half + 1, dtype=torch.float64) * step


def _quadrature(scores: JointlyNormal, sampling: Sampling) -> tuple[Tensor, Tensor]:
    rotated = scores.rotated()
    steps = _steps(rotated)
    axes = [_nodes(step) for step in steps]
    if (num_nodes := math.prod(len(axis) for axis in axes)) > _LARGEST_GRID:
        raise ValueError(
            f'method="quadrature" would need a grid of {num_nodes:.2g} points for {len(axes)} factors. '
            "Leave the choice to the default."
        )
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes)).to(scores.loc)
    index = torch.cartesian_prod(*(torch.arange(len(axis)) for axis in axes)).reshape(-1, len(axes)).to(grid.device)
    log_density = -0.5 * grid.square().sum(-1)
    fine = torch.softmax(log_density, dim=0)
    coarse = torch.softmax(torch.where((index % 2 == 0).all(-1), log_density, -math.inf), dim=0)
    probs, half = mix_conditional_probs(_location(rotated), rotated.diagonal.sqrt(), grid, torch.stack([fine, coarse]))
    # Halving the step squares the error twice; squaring it once is a safe claim.
    return probs, (probs - half).detach().square() + _INNER_ERROR


def _conditional(scores: JointlyNormal, sampling: Sampling) -> tuple[Tensor, Tensor]:
    rotated = scores.rotated()
    dim = rotated.factor.shape[-1]
    draws = normal_replicates(sampling.num_replicates, sampling.num_points, dim, sampling.seed, scores.loc.device)
    weights = torch.eye(sampling.num_replicates, dtype=torch.float64, device=draws.device).repeat_interleave(
        sampling.num_points, dim=-1
    )
    probs, error = mean_and_error(
        mix_conditional_probs(
            _location(rotated), rotated.diagonal.sqrt(), draws.flatten(0, 1), weights / sampling.num_points, QUICK
        )
    )
    # Few points that show an action, if any, do not tell how many should have.
    size = sampling.num_points * sampling.num_replicates
    unsure = (probs.detach() * size < 1) & (error > _UNSURE * probs.detach())
    if bool((unsure | (probs.detach() <= 0)).any()):
        unseen = _unseen(rotated.loc, rotated.factor, rotated.diagonal, size)
        error = torch.where(unsure | (probs.detach() <= 0), torch.maximum(error, unseen), error)
    return probs, error + _INNER_ERROR


def _location(scores: JointlyNormal) -> Callable[[Tensor], Tensor]:
    return lambda z: scores.loc[:, None, :] + z @ scores.factor.mT


METHODS: dict[str, Callable[[JointlyNormal, Sampling], tuple[Tensor, Tensor]]] = {
    "independent": _independent,
    "exact": _exact,
    "envelope": _envelope,
    "quadrature": _quadrature,
    "orthants": _orthants,
    "conditional": _conditional,
}


def choose_method(scores: JointlyNormal) -> str:
    """Choose the way of this module's table that suits these scores."""
    num_actions = scores.loc.shape[-1]
    if not bool(scores.factor.any()):
        return "independent"
    if num_actions <= 3:
        return "exact"
    rotated = scores.rotated()
    rank = rotated.factor.shape[-1]
    noiseless = not bool(scores.diagonal.any())
    if noiseless and num_actions <= _ENVELOPE_ACTIONS and (rank <= 3 or num_actions > _FEW_ACTIONS):
        return "envelope"
    if rank <= 2:
        nodes = math.prod(2 * 6.6 / max(step, 1e-6) for step in _steps(rotated))
        if nodes <= _QUADRATURE_NODES:
            return "quadrature"
    return "orthants" if num_actions <= _ORTHANT_ACTIONS else "conditional"


def default_points(method: str, num_actions: int) -> int:
    """Choose points per replicate for a tenth of a second a vector on one core (four tenths at 100 orthants)."""
    if method == "orthants":
        result: int = max(64, min(4096, 2 ** int(math.log2(2**20 / num_actions**2))))
        return result
    if method == "envelope":
        result = max(16, min(1024, 2 ** int(math.log2(2**22 / num_actions**2))))
        return result
    result = max(8, min(128, 2 ** int(math.log2(2**14 / num_actions))))
    return result


def working_bytes(method: str, num_rows: int, num_actions: int, num_replicates: int) -> int:
    """Count the bytes that a way takes at once for float64 results, beside the parameters."""
    vectors = 8 * num_rows * num_actions
    if method == "envelope":
        return (num_replicates + 4) * vectors + 48 * num_rows * num_actions**2
    if method == "orthants":
        return (num_replicates + 4) * vectors + 40 * num_actions * (num_actions - 1) ** 2
    return (num_replicates + 12) * vectors
