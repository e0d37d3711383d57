r"""Estimators with a reward model: the direct method, and those that correct it by weighted residuals.

With predictions :math:`\hat q(x, a)`, :math:`\hat q(x, \pi) = \sum_a \pi(a \mid x) \hat q(x, a)` and importance
weights ``w``:

==================  =======================================================================  ========================
direct method       :math:`\frac{1}{N} \sum \hat q(x, \pi)`                                  Beygelzimer and Langford
                                                                                             (2009)
doubly robust       :math:`\frac{1}{N} \sum \hat q(x, \pi) + w (r - \hat q(x, a))`           Dudík et al. (2011)
self-normalised DR  the correction's average weighted: :math:`\sum w (r - \hat q) / \sum w`  Thomas and Brunskill
                                                                                             (2016)
switch-DR           the correction where :math:`w \le \tau` only                             Wang et al. (2017)
DR with shrinkage   ``w`` replaced by :math:`\lambda w / (w^2 + \lambda)`                    Su et al. (2020)
==================  =======================================================================  ========================

Predictions should come from other rows than those that they correct: see ``cross-fitted`` in
`blob_pyro.ope.evaluate`. Matrices are read in chunks of rows, in the dtype given, and never copied whole.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blob_pyro.ope import checks
from blob_pyro.ope.bounded_terms import RobustTerms, WeightedTerms
from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.importance import require_weight
from blob_pyro.ope.moments import Moments
from blob_pyro.ope.weights import check_clip, support_gap

__all__ = ["direct_method", "doubly_robust", "dr_shrinkage", "self_normalized_dr", "switch_dr"]


@checks.one_row_order
def direct_method(predicted_reward: Any, target_probs: Any, *, groups: Any = None) -> Estimate:
    """Estimate the target's value as the average reward that a model predicts for it.

    No propensity enters, and nothing corrects the model: the standard error is that of the average over contexts, and
    knows nothing of the model's own error.

    Args:
        predicted_reward: ``N x A`` predictions.
        target_probs: ``N x A`` probabilities of the policy to be valued; the value is differentiable in them, and in
            the predictions, where they are torch tensors.
        groups: ``N`` users that standard errors and resampling go by.

    Raises:
        ValueError: naming argument, row and remedy.

    Example:
        >>> round(direct_method([[0.2, 0.4], [0.1, 0.5]], [[0.5, 0.5], [0.25, 0.75]]).value, 4)
        0.35
    """
    device = checks.device_of(predicted_reward, target_probs)
    predicted = checks.predictions("predicted_reward", predicted_reward, device)
    target = checks.probabilities("target_probs", target_probs, device)
    _same_shape(predicted, target)
    expected = expected_prediction(target, predicted)
    tensor = checks.has_torch(predicted_reward, target_probs)
    terms = expected.detach()
    return Estimate.build(
        "direct_method",
        Moments.mean(expected),
        tensor=tensor,
        weights=None,
        groups=groups,
        bounded=WeightedTerms(terms, torch.ones_like(terms)),
        notes=("the reward model's own error is not in the standard error",),
    )


@checks.one_row_order
def doubly_robust(
    reward: Any,
    target_probs: Any,
    logging_propensity: Any,
    *,
    action: Any,
    predicted_reward: Any,
    groups: Any = None,
    clip: float | None = None,
    logging_probs: Any = None,
) -> Estimate:
    """Correct a reward model by weighted residuals: unbiased if propensities *or* predictions are right.

    Args:
        reward: ``N`` rewards.
        target_probs: ``N x A`` probabilities of the policy to be valued; the value is differentiable in them.
        logging_propensity: ``N`` probabilities with which the logging policy played ``action``, in (0, 1].
        action: ``N`` logged actions, columns of the matrices.
        predicted_reward: ``N x A`` predictions.
        groups: ``N`` users that standard errors and resampling go by.
        clip: cut weights to this; the estimate is then biased, and says so.
        logging_probs: ``N x A``, for `Estimate.support`; optional.

    Raises:
        ValueError: naming argument, row and remedy.

    Warns:
        MissingSupportWarning: where the target plays what the log never shows.

    Example:
        >>> estimate = doubly_robust(
        ...     [1, 0], [[0.5, 0.5], [0.2, 0.8]], [0.5, 0.5], action=[0, 1], predicted_reward=[[0.8, 0.4], [0.3, 0.1]]
        ... )
        >>> round(estimate.value, 4)
        0.39
    """
    rows = _rows(reward, target_probs, logging_propensity, action, predicted_reward, groups, logging_probs)
    check_clip(clip)
    weight = rows.weight if clip is None else rows.weight.clamp(max=clip)
    share = 0.0 if clip is None else float((rows.weight.detach() > clip).to(torch.float64).mean())
    terms = rows.expected + weight * rows.residual
    robust = RobustTerms(terms.detach(), weight.detach(), rows.reward, *rows.prediction_range)
    return _estimate("doubly_robust", Moments.mean(terms), weight, rows, groups, clip, share, robust)


@checks.one_row_order
def self_normalized_dr(
    reward: Any,
    target_probs: Any,
    logging_propensity: Any,
    *,
    action: Any,
    predicted_reward: Any,
    groups: Any = None,
    logging_probs: Any = None,
) -> Estimate:
    """Estimate doubly robustly with weights that sum to ``N``: less variance, a bias of order 1/N.

    Args:
        reward: see `doubly_robust`, as for all arguments.
        target_probs: ``N x A``.
        logging_propensity: ``N``.
        action: ``N``.
        predicted_reward: ``N x A``.
        groups: ``N``.
        logging_probs: ``N x A``.
    """
    rows = _rows(reward, target_probs, logging_propensity, action, predicted_reward, groups, logging_probs)
    require_weight(rows.weight, "target_probs")
    columns = [rows.expected, rows.weight * rows.residual, rows.weight]
    moments = Moments(columns, lambda m: m[..., 0] + m[..., 1] / m[..., 2])
    return _estimate("self_normalized_dr", moments, rows.weight, rows, groups)


@checks.one_row_order
def switch_dr(
    reward: Any,
    target_probs: Any,
    logging_propensity: Any,
    *,
    action: Any,
    predicted_reward: Any,
    threshold: float,
    groups: Any = None,
    logging_probs: Any = None,
) -> Estimate:
    """Estimate doubly robustly where weights are moderate, by the reward model alone where they are not.

    Args:
        reward: see `doubly_robust`, as for the arguments that are not listed last.
        target_probs: ``N x A``.
        logging_propensity: ``N``.
        action: ``N``.
        predicted_reward: ``N x A``.
        threshold: the largest weight that is used.
        groups: ``N``.
        logging_probs: ``N x A``.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold: the largest weight to use is not negative, got {threshold}")
    rows = _rows(reward, target_probs, logging_propensity, action, predicted_reward, groups, logging_probs)
    used = (rows.weight.detach() <= threshold).to(rows.weight.dtype)
    weight = rows.weight * used
    note = f"weights above {threshold:.6g} left to the reward model: {1 - float(used.mean()):.2%} of rows"
    moments = Moments.mean(rows.expected + weight * rows.residual)
    return _estimate("switch_dr", moments, weight, rows, groups, notes=(note,), expected_weight=None)


@checks.one_row_order
def dr_shrinkage(
    reward: Any,
    target_probs: Any,
    logging_propensity: Any,
    *,
    action: Any,
    predicted_reward: Any,
    shrinkage: float,
    groups: Any = None,
    logging_probs: Any = None,
) -> Estimate:
    """Estimate doubly robustly with weights shrunk to ``shrinkage w / (w^2 + shrinkage)`` (Su et al. 2020).

    Args:
        reward: see `doubly_robust`, as for the arguments that are not listed last.
        target_probs: ``N x A``.
        logging_propensity: ``N``.
        action: ``N``.
        predicted_reward: ``N x A``.
        shrinkage: 0 is the direct method, infinity doubly robust.
        groups: ``N``.
        logging_probs: ``N x A``.
    """
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage: must not be negative, got {shrinkage}")
    rows = _rows(reward, target_probs, logging_propensity, action, predicted_reward, groups, logging_probs)
    weight = rows.weight
    if math.isfinite(shrinkage):
        square = weight * weight + shrinkage
        weight = shrinkage * weight / torch.where(square == 0, 1.0, square)
    kept = float(weight.detach().sum()) / max(float(rows.weight.detach().sum()), 1e-300)
    note = f"weights shrunk by {shrinkage:.6g}: {kept:.2%} of their sum is left"
    moments = Moments.mean(rows.expected + weight * rows.residual)
    return _estimate("dr_shrinkage", moments, weight, rows, groups, notes=(note,), expected_weight=None)


def expected_prediction(probs: Tensor, predicted: Tensor) -> Tensor:
    """Compute ``sum_a probs * predicted``, ``N`` float64, for a few rows at a time; gradients pass."""
    parts = []
    for rows in checks.row_slices(*predicted.shape):
        parts.append((probs[rows].to(torch.float64) * predicted[rows].to(torch.float64)).sum(-1))
    return torch.cat(parts)


def of_action(matrix: Tensor, action: Tensor) -> Tensor:
    """Return the column of each row's action, ``N`` float64."""
    return matrix.gather(-1, action[:, None]).squeeze(-1).to(torch.float64)


class _Rows(NamedTuple):
    reward: Tensor
    weight: Tensor
    expected: Tensor
    residual: Tensor
    prediction_range: tuple[float, float]
    support: float | None
    tensor: bool


def _rows(
    reward: Any,
    target_probs: Any,
    logging_propensity: Any,
    action: Any,
    predicted_reward: Any,
    groups: Any,
    logging_probs: Any,
) -> _Rows:
    device = checks.device_of(reward, target_probs, logging_propensity, predicted_reward)
    gain = checks.rewards("reward", reward, device)
    logging = checks.logging_propensities("logging_propensity", logging_propensity, device)
    target = checks.probabilities("target_probs", target_probs, device)
    predicted = checks.predictions("predicted_reward", predicted_reward, device)
    checks.same_length(reward=gain, target_probs=target, logging_propensity=logging, predicted_reward=predicted)
    checks.same_length(reward=gain, action=action, groups=groups)
    _same_shape(predicted, target)
    played = checks.actions("action", action, target.shape[1], device)
    support = support_gap(target, logging_probs, logging, played)
    bounds = [part.detach() for part in (predicted.amin(), predicted.amax())]
    return _Rows(
        reward=gain,
        weight=of_action(target, played) / logging,
        expected=expected_prediction(target, predicted),
        residual=gain - of_action(predicted, played),
        prediction_range=(float(bounds[0]), float(bounds[1])),
        support=support,
        tensor=checks.has_torch(reward, target_probs, logging_propensity, predicted_reward),
    )


def _same_shape(predicted: Tensor, target: Tensor) -> None:
    checks.same_length(predicted_reward=predicted, target_probs=target)
    if predicted.shape != target.shape:
        raise ValueError(
            f"predicted_reward: has {predicted.shape[1]} actions where target_probs has {target.shape[1]}; both need "
            "one column per action"
        )


def _estimate(
    name: str,
    moments: Moments,
    weight: Tensor,
    rows: _Rows,
    groups: Any,
    clip: float | None = None,
    clipped_share: float = 0.0,
    bounded: RobustTerms | None = None,
    notes: tuple[str, ...] = (),
    expected_weight: float | None = 1.0,
) -> Estimate:
    return Estimate.build(
        name,
        moments,
        tensor=rows.tensor,
        weights=None if expected_weight is None and not bool(weight.any()) else weight,
        expected_weight=expected_weight,
        support=rows.support,
        support_known_by="logging_probs",
        groups=groups,
        clip=clip,
        clipped_share=clipped_share,
        bounded=bounded,
        notes=notes,
    )
