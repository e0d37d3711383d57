r"""Importance sampling: the average of rewards weighed by how much more often the target would have played them.

With :math:`w_n = \pi(a_n \mid x_n) / \pi_0(a_n \mid x_n)`:

===========  ==============================================  ====================================================
IPS          :math:`\frac{1}{N}\sum w r`                     unbiased (Horvitz and Thompson 1952)
SNIPS        :math:`\sum w r / \sum w`                       bias :math:`O(1/N)`, often far less variance
                                                             (Swaminathan and Joachims 2015)
beta-IPS     :math:`b + \frac{1}{N}\sum w (r - b)`           the baseline of least variance
                                                             (Gupta et al. 2024, "Optimal baseline corrections for
                                                             off-policy contextual bandits", RecSys)
===========  ==============================================  ====================================================
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from blob_pyro.ope import checks
from blob_pyro.ope.bounded_terms import WeightedTerms
from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.moments import Moments
from blob_pyro.ope.weights import Weights, importance_weights, support_gap

__all__ = ["NoOverlap", "beta_ips", "fold_of_rows", "ips", "snips"]


class _Rows(NamedTuple):
    reward: Tensor
    weights: Weights
    support: float | None
    tensor: bool


@checks.one_row_order
def ips(
    reward: Any,
    target_propensity: Any,
    logging_propensity: Any,
    *,
    clip: float | None = None,
    groups: Any = None,
    target_probs: Any = None,
    logging_probs: Any = None,
) -> Estimate:
    """Estimate by inverse propensity scores: the unbiased average of weighted rewards.

    Source: Horvitz and Thompson (1952); Jeunen (2025), eq. 2.

    Args:
        reward: ``N`` rewards, finite.
        target_propensity: ``N`` probabilities that the policy to be valued plays the logged action; the value is
            differentiable in them where they are a torch tensor.
        logging_propensity: ``N`` probabilities with which the logging policy played it, in (0, 1].
        clip: cut weights to this; the estimate is then biased, and says so.
        groups: ``N`` users, or whatever rewards are correlated within; standard errors and resampling go by them.
        target_probs: ``N x A``, the target's probabilities of all actions; with ``logging_probs`` they tell how much of
            its mass the log never shows (`Estimate.support`). Optional.
        logging_probs: ``N x A``, the logging policy's.

    Returns:
        See `Estimate`.

    Raises:
        ValueError: naming argument, row and remedy, for propensities outside their range, missing or infinite values,
            or lengths that differ.

    Warns:
        MissingSupportWarning: where the target plays what the log never shows.

    Example:
        >>> estimate = ips([1, 0, 0, 1], target_propensity=[0.9, 0.1, 0.9, 0.1], logging_propensity=[0.5] * 4)
        >>> estimate.value, round(estimate.standard_error, 4), round(estimate.effective_sample_size, 2)
        (0.5, 0.4359, 2.44)
    """
    rows = _rows(reward, target_propensity, logging_propensity, clip, groups, target_probs, logging_probs)
    weight = rows.weights.values
    return _estimate("ips", Moments.mean(weight * rows.reward), rows, groups, bounded=True)


@checks.one_row_order
def snips(
    reward: Any,
    target_propensity: Any,
    logging_propensity: Any,
    *,
    clip: float | None = None,
    groups: Any = None,
    target_probs: Any = None,
    logging_probs: Any = None,
) -> Estimate:
    r"""Estimate by self-normalised inverse propensity scores: the weighted average of rewards.

    Its standard error is that of a ratio, :math:`\sqrt{\sum w^2 (r - v)^2} / \sum w`, not that of ``w r / mean(w)``.
    It is invariant to a factor common to all propensities, and lies within the range of the rewards. Its bias is
    :math:`-E[w^2 (r - v)] / N` to second order: in `blob_pyro.experiments.figure1`, -1.64 / N, which is what 1,000 logs
    show at each of its 26 sizes, -0.0117 +- 0.0028 at 199 rows (effective sample size 32; predicted -0.0083), and is
    below a tenth of a standard error of one log from an effective sample size of 128 on.

    Args:
        reward: see `ips`, as for all arguments.
        target_propensity: ``N``.
        logging_propensity: ``N``.
        clip: largest weight.
        groups: ``N``.
        target_probs: ``N x A``.
        logging_probs: ``N x A``.

    Raises:
        ValueError: as `ips`, and where all weights are 0.

    Example:
        >>> estimate = snips([1, 0, 0, 1], target_propensity=[0.9, 0.1, 0.9, 0.1], logging_propensity=[0.5] * 4)
        >>> estimate.value, round(estimate.standard_error, 4)
        (0.5, 0.3202)
    """
    rows = _rows(reward, target_propensity, logging_propensity, clip, groups, target_probs, logging_probs)
    weight = rows.weights.values
    require_weight(weight, "target_propensity")
    return _estimate("snips", Moments.ratio(weight * rows.reward, weight), rows, groups)


@checks.one_row_order
def beta_ips(
    reward: Any,
    target_propensity: Any,
    logging_propensity: Any,
    *,
    clip: float | None = None,
    groups: Any = None,
    cross_fit: int | None = None,
    target_probs: Any = None,
    logging_probs: Any = None,
) -> Estimate:
    r"""Estimate by IPS with the additive baseline of least variance (Gupta et al. 2024, equation for beta*).

    ``b + mean(w (r - b))`` is unbiased for any constant ``b``, and has the least variance at
    :math:`b^* = E[(w^2 - w) r] / E[w^2 - w]`. As published, ``b*`` is estimated on the same rows: that costs a bias of
    order 1/N. With ``cross_fit=K`` it is estimated on the other folds, which costs none. The standard error is that of
    ``w (r - b*)``. The bias is :math:`-E[(w^2 - w)(w - 1)(r - b^*)] / (N E[w^2 - w])` to second order: in
    `blob_pyro.experiments.figure1`, -1.49 / N, and within three standard errors of that in all of 26 sizes.

    Args:
        reward: see `ips`, as for all arguments.
        target_propensity: ``N``.
        logging_propensity: ``N``.
        clip: largest weight.
        groups: ``N``.
        target_probs: ``N x A``.
        logging_probs: ``N x A``.
        cross_fit: number of folds, at least 2; groups are not torn apart. None for the published estimator.

    Example:
        >>> estimate = beta_ips([1, 0, 0, 1], target_propensity=[0.9, 0.1, 0.9, 0.1], logging_propensity=[0.5] * 4)
        >>> round(float(estimate.value), 4), round(estimate.standard_error, 4)
        (0.5, 0.3697)
    """
    rows = _rows(reward, target_propensity, logging_propensity, clip, groups, target_probs, logging_probs)
    weight, gain = rows.weights.values, rows.reward
    excess = weight * weight - weight
    if cross_fit is None:
        columns = [weight * gain, weight, excess * gain, excess]
        baseline = safe_ratio(columns[2].mean(), columns[3].mean())
        moments = Moments(columns, _beta, weight * (gain - baseline), is_mean=True)
        return _estimate("beta_ips", moments, rows, groups, (f"baseline {float(baseline.detach()):.6g}, same rows",))
    fold = fold_of_rows(len(gain), cross_fit, groups).to(weight.device)
    numerator, denominator = (
        torch.zeros(cross_fit, dtype=weight.dtype, device=weight.device).index_add(0, fold, column)
        for column in (excess * gain, excess)
    )
    baseline = safe_ratio(numerator.sum() - numerator, denominator.sum() - denominator)[fold]
    moments = Moments.mean(baseline + weight * (gain - baseline))
    note = f"baseline out of fold, {cross_fit} folds, on average {float(baseline.detach().mean()):.6g}"
    return _estimate("beta_ips", moments, rows, groups, (note,))


def fold_of_rows(rows: int, folds: int, groups: Any) -> Tensor:
    """Deal rows (groups) to folds in turn, in the order of their first row; ``rows`` numbers.

    Raises:
        ValueError: for fewer than two folds, or fewer rows or groups than folds.
    """
    codes, units = (torch.arange(rows), rows) if groups is None else checks.group_codes(groups, rows)
    if not 2 <= folds <= units:
        raise ValueError(f"cross_fit: expected 2 to {units} folds, one for each row or group at most, got {folds}")
    return codes % folds


class NoOverlap(ValueError):
    """The target plays nothing that the log shows, so that a weighted average of its rewards would be 0 / 0."""


def require_weight(weight: Tensor, name: str) -> None:
    """Raise an error where all weights are 0.

    Raises:
        NoOverlap: naming the argument.
    """
    if not bool((weight.detach() != 0).any()):
        raise NoOverlap(
            f"{name}: is 0 for every logged action, so the target plays nothing that the log shows; check that actions "
            "are numbered alike, or log what the target plays"
        )


def safe_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide; 0 where the denominator is, which is where weights do not vary and any baseline is as good."""
    none = denominator == 0
    return torch.where(none, torch.zeros_like(numerator), numerator / torch.where(none, 1.0, denominator))


def _beta(means: Tensor) -> Tensor:
    baseline = safe_ratio(means[..., 2], means[..., 3])
    return baseline + means[..., 0] - baseline * means[..., 1]


def _rows(
    reward: Any,
    target_propensity: Any,
    logging_propensity: Any,
    clip: float | None,
    groups: Any,
    target_probs: Any,
    logging_probs: Any,
) -> _Rows:
    device = checks.device_of(reward, target_propensity, logging_propensity)
    gain = checks.rewards("reward", reward, device)
    target = checks.target_propensities("target_propensity", target_propensity, device)
    logging = checks.logging_propensities("logging_propensity", logging_propensity, device)
    checks.same_length(reward=gain, target_propensity=target, logging_propensity=logging)
    checks.same_length(reward=gain, groups=groups)
    probs = None if target_probs is None else checks.probabilities("target_probs", target_probs)
    support = support_gap(probs, logging_probs, None, None)
    checks.same_length(reward=gain, target_probs=probs)
    tensor = checks.has_torch(reward, target_propensity, logging_propensity)
    return _Rows(gain, importance_weights(target, logging, clip), support, tensor)


def _estimate(
    name: str, moments: Moments, rows: _Rows, groups: Any, notes: tuple[str, ...] = (), bounded: bool = False
) -> Estimate:
    weight = rows.weights.values.detach()
    return Estimate.build(
        name,
        moments,
        tensor=rows.tensor,
        weights=weight,
        support=rows.support,
        support_known_by="target_probs and logging_probs",
        groups=groups,
        clip=rows.weights.clip,
        clipped_share=rows.weights.clipped_share,
        bounded=WeightedTerms(rows.reward.detach(), weight) if bounded else None,
        notes=notes,
    )
