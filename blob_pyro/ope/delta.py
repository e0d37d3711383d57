r"""The difference of two policies, estimated from one log directly (Jeunen and Ustimenko 2024).

Two estimates from the same rows err alike, so their difference is known better than either. With
:math:`d_n = w^{target}_n - w^{baseline}_n`, whose mean is 0: ``mean(d r)`` is unbiased, and so is ``mean(d (r - b))``
for any ``b``; the least variance has :math:`b^* = E[d^2 r] / E[d^2]`.

References:
    O. Jeunen, A. Ustimenko. "Delta-OPE: off-policy estimation with pairs of policies". RecSys (2024).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from blob_pyro.ope import checks
from blob_pyro.ope.bounded_terms import DifferenceTerms
from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.importance import fold_of_rows, require_weight, safe_ratio
from blob_pyro.ope.moments import Moments
from blob_pyro.ope.weights import importance_weights

__all__ = ["delta_beta_ips", "delta_ips", "delta_snips"]


@checks.one_row_order
def delta_ips(
    reward: Any,
    target_propensity: Any,
    baseline_propensity: Any,
    logging_propensity: Any,
    *,
    clip: float | None = None,
    groups: Any = None,
) -> Estimate:
    """Estimate the value of the target minus that of the baseline, by inverse propensity scores; unbiased.

    Args:
        reward: ``N`` rewards.
        target_propensity: ``N`` probabilities that the target plays the logged action; the value is differentiable in
            them.
        baseline_propensity: ``N`` probabilities that the policy it is compared with does.
        logging_propensity: ``N`` probabilities with which the logging policy played it, in (0, 1].
        clip: cut the weights of both policies to this; the estimate is then biased, and says so.
        groups: ``N`` users that standard errors and resampling go by.

    Returns:
        An `Estimate` whose effective sample size is ``(sum |d|)^2 / sum d^2``: of the rows on which the two differ.

    Example:
        >>> estimate = delta_ips([1, 0, 0, 1], [0.9, 0.1, 0.9, 0.1], [0.5] * 4, [0.5] * 4)
        >>> round(estimate.value, 4), round(estimate.effective_sample_size, 4)
        (0.0, 4.0)
    """
    rows = _rows(reward, target_propensity, baseline_propensity, logging_propensity, clip, groups)
    moments = Moments.mean((rows.target - rows.baseline) * rows.reward)
    terms = DifferenceTerms(rows.reward.detach(), rows.target.detach(), rows.baseline.detach())
    return _estimate("delta_ips", moments, rows, groups, terms)


@checks.one_row_order
def delta_snips(
    reward: Any,
    target_propensity: Any,
    baseline_propensity: Any,
    logging_propensity: Any,
    *,
    clip: float | None = None,
    groups: Any = None,
) -> Estimate:
    """Estimate the difference of two policies by self-normalised estimates, with the difference's standard error.

    Args:
        reward: see `delta_ips`, as for all arguments.
        target_propensity: ``N``.
        baseline_propensity: ``N``.
        logging_propensity: ``N``.
        clip: largest weight.
        groups: ``N``.
    """
    rows = _rows(reward, target_propensity, baseline_propensity, logging_propensity, clip, groups)
    require_weight(rows.target, "target_propensity")
    require_weight(rows.baseline, "baseline_propensity")
    columns = [rows.target * rows.reward, rows.target, rows.baseline * rows.reward, rows.baseline]
    moments = Moments(columns, lambda m: m[..., 0] / m[..., 1] - m[..., 2] / m[..., 3])
    return _estimate("delta_snips", moments, rows, groups)


@checks.one_row_order
def delta_beta_ips(
    reward: Any,
    target_propensity: Any,
    baseline_propensity: Any,
    logging_propensity: Any,
    *,
    clip: float | None = None,
    groups: Any = None,
    cross_fit: int | None = None,
) -> Estimate:
    """Estimate a difference as `delta_ips` does, with the additive baseline of least variance.

    By default ``b*`` is estimated on the same rows, as published: a bias of order 1/N. The standard error is that of
    ``d (r - b*)``.

    Args:
        reward: see `delta_ips`, as for the arguments that are not listed last.
        target_propensity: ``N``.
        baseline_propensity: ``N``.
        logging_propensity: ``N``.
        clip: largest weight.
        groups: ``N``.
        cross_fit: number of folds, at least 2, to estimate ``b*`` out of fold, without bias.
    """
    rows = _rows(reward, target_propensity, baseline_propensity, logging_propensity, clip, groups)
    difference = rows.target - rows.baseline
    square = difference * difference
    if cross_fit is None:
        columns = [difference * rows.reward, difference, square * rows.reward, square]
        best = safe_ratio(columns[2].mean(), columns[3].mean())
        moments = Moments(columns, _beta, difference * (rows.reward - best), is_mean=True)
        return _estimate(
            "delta_beta_ips", moments, rows, groups, None, f"baseline {float(best.detach()):.6g}, same rows"
        )
    fold = fold_of_rows(len(rows.reward), cross_fit, groups).to(square.device)
    numerator, denominator = (
        torch.zeros(cross_fit, dtype=square.dtype, device=square.device).index_add(0, fold, column)
        for column in (square * rows.reward, square)
    )
    best = safe_ratio(numerator.sum() - numerator, denominator.sum() - denominator)[fold]
    moments = Moments.mean(difference * (rows.reward - best))
    note = f"baseline out of fold, {cross_fit} folds, on average {float(best.detach().mean()):.6g}"
    return _estimate("delta_beta_ips", moments, rows, groups, None, note)


class _Rows(NamedTuple):
    reward: Tensor
    target: Tensor
    baseline: Tensor
    clip: float | None
    clipped_share: float
    tensor: bool


def _beta(means: Tensor) -> Tensor:
    return means[..., 0] - safe_ratio(means[..., 2], means[..., 3]) * means[..., 1]


def _rows(
    reward: Any,
    target_propensity: Any,
    baseline_propensity: Any,
    logging_propensity: Any,
    clip: float | None,
    groups: Any,
) -> _Rows:
    arguments = (reward, target_propensity, baseline_propensity, logging_propensity)
    device = checks.device_of(*arguments)
    gain = checks.rewards("reward", reward, device)
    target = checks.target_propensities("target_propensity", target_propensity, device)
    baseline = checks.target_propensities("baseline_propensity", baseline_propensity, device)
    logging = checks.logging_propensities("logging_propensity", logging_propensity, device)
    checks.same_length(
        reward=gain, target_propensity=target, baseline_propensity=baseline, logging_propensity=logging, groups=groups
    )
    of_target, of_baseline = (importance_weights(p, logging, clip) for p in (target, baseline))
    clipped = 0.0
    if clip is not None:
        cut = (target.detach() / logging > clip) | (baseline.detach() / logging > clip)
        clipped = float(cut.to(torch.float64).mean())
    return _Rows(gain, of_target.values, of_baseline.values, of_target.clip, clipped, checks.has_torch(*arguments))


def _estimate(
    name: str, moments: Moments, rows: _Rows, groups: Any, bounded: DifferenceTerms | None = None, note: str = ""
) -> Estimate:
    return Estimate.build(
        name,
        moments,
        tensor=rows.tensor,
        weights=(rows.target - rows.baseline).detach(),
        expected_weight=0.0,
        support_known_by="probabilities of all actions to ips, for each of the two policies",
        groups=groups,
        clip=rows.clip,
        clipped_share=rows.clipped_share,
        bounded=bounded,
        notes=(note,) if note else (),
    )
