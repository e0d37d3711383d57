r"""P(argmax) for independent normal scores: one shared grid, in log space, with closed-form gradients.

With y a common threshold, :math:`S(y) = \sum_j \log F_j(y)` and the hazards :math:`h_i = f_i / F_i`,

.. math:: \pi_i = \int f_i \prod_{j \ne i} F_j \, dy = \int h_i(y) e^{S(y)} dy,

(Jeunen 2025, "Counterfactual Inference under Thompson Sampling", eq. 5), so that all A probabilities share the
evaluations of S: the cost is A x Q for the whole vector. Every integrand is log-concave, which gives rigorous
bounds for where it matters; see `blob_pyro.propensity.kernels.normal_panels`.

Distances are measured as `blob_pyro.propensity.kernels.normal_arms` says.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blob_pyro.propensity._types import check_not_batched
from blob_pyro.propensity.kernels.functions import WithoutVmap, to_dtype
from blob_pyro.propensity.kernels.mesh import NODES_PER_PANEL, Panels, block_elements
from blob_pyro.propensity.kernels.normal_arms import (
    EXACT,
    MANY_ARMS,
    QUICK,
    Accuracy,
    NormalArms,
    arm_slices,
    log_product,
    normal_terms,
)
from blob_pyro.propensity.kernels.normal_panels import normal_panels

__all__ = ["EXACT", "QUICK", "Accuracy", "argmax_normal_log_probs", "without_the_rest"]


def _blocks(panels: Panels, arms: NormalArms) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield row, nodes, hazard phi / F and weight x e^S for a few panels at a time."""
    num_arms = arms.offset.shape[-1]
    per_block = block_elements(arms.offset.device) // NODES_PER_PANEL
    for row, nodes, weights in panels.blocks(max(1, per_block // num_arms)):
        hazards, log_mass = [], torch.zeros_like(nodes)
        for part in arm_slices(num_arms, per_block):
            z, cdf, hazard = normal_terms(nodes, arms.offset[row, part], arms.rate[row, part])
            log_mass += log_product(z, cdf, num_arms)
            hazards.append(hazard)
        yield row, nodes, torch.cat(hazards, dim=-1) if len(hazards) > 1 else hazards[0], log_mass.exp_().mul_(weights)


def _rows_per_chunk(num_arms: int, device: torch.device, accuracy: Accuracy) -> int:
    # Eight rows where memory allows spread the fixed cost of a chunk; fewer fill the cache better.
    rows = 2 * block_elements(device) // ((max(accuracy.intervals) + 1) * num_arms)
    return max(rows, 8 if num_arms <= MANY_ARMS else 1)


def _deterministic_node(arms: NormalArms) -> tuple[Tensor, Tensor, Tensor]:
    """z, hazard and the probability e^S of the best deterministic score, which is the origin where it can win."""
    num_arms = arms.offset.shape[-1]
    start = torch.zeros_like(arms.unit)[:, None]
    z, cdf, hazard = normal_terms(start, arms.offset, arms.rate)
    mass = torch.where(arms.truncated, log_product(z, cdf, num_arms).exp().squeeze(-1), 0.0)
    return z.squeeze(-2), hazard.squeeze(-2), mass


def _probabilities(panels: Panels, arms: NormalArms) -> Tensor:
    probs = torch.zeros_like(arms.offset)
    for row, _, hazard, mass in _blocks(panels, arms):
        probs.index_add_(0, row, torch.bmm(mass[:, None, :], hazard).squeeze(-2))
    probs.mul_(arms.rate)
    if arms.may_be_truncated:
        _, _, mass = _deterministic_node(arms)
        share = arms.fixed.double() / arms.fixed.sum(-1, keepdim=True).clamp_min(1)
        probs = torch.where(arms.random, probs, mass[:, None] * share)
    return probs


def _of_others(value: Tensor) -> Tensor:
    """The sum over all other entries of the last dimension; a total minus the own entry would cancel."""
    before = torch.nn.functional.pad(value[..., :-1].cumsum(-1), (1, 0))
    after = torch.nn.functional.pad(value[..., 1:].flip(-1).cumsum(-1).flip(-1), (0, 1))
    return before.add_(after)


def _gradients(panels: Panels, arms: NormalArms, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of sum_i v_i pi_i with respect to locations and scales.

    d(v . pi) / d loc_j = integral of h_j e^S sum_(i != j) (v_j - v_i) h_i; for scale_j the same with a factor z_j.
    """
    by_loc, by_scale = torch.zeros_like(cotangent), torch.zeros_like(cotangent)
    for row, nodes, hazard, mass in _blocks(panels, arms):
        rate, v = arms.rate[row][:, None, :], cotangent[row][:, None, :]
        hazard.mul_(rate)
        flow = _of_others(hazard).mul_(v).sub_(_of_others(hazard * v)).mul_(hazard)
        z = (nodes[..., None] - arms.offset[row][:, None, :]).mul_(rate)
        by_loc.index_add_(0, row, torch.bmm(mass[:, None, :], flow).squeeze(-2))
        by_scale.index_add_(0, row, torch.bmm(mass[:, None, :], z.mul_(flow)).squeeze(-2))
    if arms.may_be_truncated:
        z, hazard, mass = _deterministic_node(arms)
        count = arms.fixed.sum(-1, keepdim=True).clamp_min(1)
        v = (cotangent * arms.fixed).sum(-1, keepdim=True) / count
        flow = torch.where(arms.random, hazard * arms.rate * mass[:, None] * (cotangent - v), 0.0)
        by_loc = by_loc + flow - flow.sum(-1, keepdim=True) * arms.fixed / count
        by_scale = by_scale + z * flow
    # A deterministic arm's scale acts through its square: no first-order effect.
    return by_loc, torch.where(arms.random, by_scale, 0.0)


class _ArgmaxNormal(WithoutVmap):
    """Chunked over rows. The meshes of the forward pass are kept for the backward one, which repeats the rest."""

    @staticmethod
    def forward(loc: Tensor, scale: Tensor, accuracy: Accuracy) -> tuple[Tensor, list[Panels]]:
        rows, num_arms = loc.shape
        size = _rows_per_chunk(num_arms, loc.device, accuracy)
        result = loc.new_empty(rows, num_arms)
        panels = []
        for start in range(0, rows, size):
            part = slice(start, start + size)
            arms = NormalArms.place(loc[part].double(), scale[part].double(), accuracy)
            panels.append(normal_panels(arms, accuracy))
            probs = _probabilities(panels[-1], arms)
            result[part] = torch.where(arms.possible[:, None], probs.log_(), math.nan)
        return result, panels

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        loc, scale, accuracy = inputs
        log_probs, panels = output
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(loc, scale, log_probs)
            ctx.panels, ctx.accuracy = panels, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs: Tensor, _: None) -> tuple[Tensor, Tensor, None]:
        loc, scale, log_probs = ctx.saved_tensors
        check_not_batched("argmax_normal_log_probs", "the gradient", grad_log_probs)
        by_loc, by_scale = torch.empty_like(loc), torch.empty_like(scale)
        size = _rows_per_chunk(loc.shape[-1], loc.device, ctx.accuracy)
        for index, panels in enumerate(ctx.panels):
            part = slice(index * size, (index + 1) * size)
            arms = NormalArms.place(loc[part].double(), scale[part].double(), ctx.accuracy)
            # Below 1e-300 the gradient of the logarithm fades out instead of overflowing.
            cotangent = grad_log_probs[part].double() / log_probs[part].double().exp().clamp_min(1e-300)
            for whole, gradient in zip((by_loc, by_scale), _gradients(panels, arms, cotangent)):
                whole[part] = to_dtype(gradient / arms.unit[:, None], whole.dtype)
        return by_loc, by_scale, None


def without_the_rest(loc: Tensor, scale: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Put those locations and scales (... x A) that are not allowed so far below that they change nothing."""
    random = torch.where(allowed, scale, 0.0).detach().amax(-1, keepdim=True)
    width = torch.where(random > 0, random, 1.0)
    reach = torch.where(allowed, loc - 40 * scale, -math.inf).detach().amax(-1, keepdim=True)
    return torch.where(allowed, loc, reach - 100 * width - reach.abs()), torch.where(allowed, scale, width)


def argmax_normal_log_probs(loc: Tensor, scale: Tensor, accuracy: Accuracy = EXACT) -> Tensor:
    r"""Compute the log-probability of every arm to have the largest of independent normal scores.

    .. math:: \log \pi_i = \log \int \frac{f_i(y)}{F_i(y)} \exp\Big(\sum_j \log F_j(y)\Big) dy

    Computed in float64 whatever the dtype of the input, in chunks, with closed-form first derivatives
    (no second ones). Nothing is checked: this is the kernel under `ArgmaxNormal`.

    Args:
        loc: batch_shape x A.
        scale: batch_shape x A, standard deviations, at least 0. Arms with scale 0 are deterministic; of several
            that hold the highest deterministic score each gets an equal share.
        accuracy: `EXACT`, or `QUICK` for 1e-8.

    Returns:
        batch_shape x A, in the dtype of the input. Probabilities below 1e-300 lose their relative accuracy and
        those below 1e-313 are reported as -inf. Gradients beyond the largest number of the dtype (scales below 1e-38
        in float32) are that number. A row is NaN where scales that matter differ by more than 1e140, or are smaller
        than 1e-307.

    >>> argmax_normal_log_probs(torch.tensor([0.0, 0.0, -1.0]), torch.tensor([1.0, 1.0, 0.0])).exp()
    tensor([0.4874, 0.4874, 0.0252])
    """
    loc, scale = torch.broadcast_tensors(loc, scale)
    num_arms = loc.shape[-1]
    log_probs, _ = _ArgmaxNormal.apply(  # type: ignore[no-untyped-call]
        loc.reshape(-1, num_arms), scale.reshape(-1, num_arms), accuracy
    )
    log_prob: Tensor = log_probs.reshape(loc.shape)
    return log_prob
