"""Importance weights: the target's probability of what was logged, over the logging policy's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blob_pyro.ope import checks

__all__ = ["Weights", "check_clip", "importance_weights", "support_gap"]


@dataclass(frozen=True)
class Weights:
    """``N`` weights, and what clipping did to them."""

    values: Tensor
    clip: float | None
    clipped_share: float


def check_clip(clip: float | None) -> None:
    """Raise a ValueError unless ``clip`` is None or positive."""
    if clip is not None and not (clip > 0 and not math.isnan(clip)):
        raise ValueError(f"clip: the largest weight to keep is positive, got {clip}; None keeps all as they are")


def importance_weights(target: Tensor, logging: Tensor, clip: float | None) -> Weights:
    """Compute ``min(target / logging, clip)``, with the gradient in the target's propensities.

    Args:
        target: ``N`` probabilities that the target policy plays the logged action.
        logging: ``N`` probabilities that the logging policy did.
        clip: largest weight, or None.
    """
    check_clip(clip)
    weight = target / logging
    if clip is None:
        return Weights(weight, None, 0.0)
    share = float((weight.detach() > clip).to(torch.float64).mean())
    return Weights(weight.clamp(max=clip), float(clip), share)


def support_gap(
    target_probs: Tensor | None, logging_probs: Any, logging_propensity: Tensor | None, action: Tensor | None
) -> float | None:
    """Return the share of the target's mass on actions whose logging probability is 0, in chunks; or None.

    Args:
        target_probs: checked, ``N x A``; or None.
        logging_probs: ``N x A`` as the user gave them; or None.
        logging_propensity: ``N``; compared with ``logging_probs`` where ``action`` is known.
        action: ``N`` action numbers, or None.

    Raises:
        ValueError: where the logging policy could not have played the action, or played it with another probability
            than was logged.
    """
    if logging_probs is None:
        return None
    logging = checks.probabilities("logging_probs", logging_probs, None)
    if action is not None:
        checks.same_length(logging_probs=logging, action=action)
        of_action = logging.gather(-1, action.to(logging.device)[:, None]).squeeze(-1).to(torch.float64)
        remedy = "Its candidates are the actions with a positive probability: check the numbering of actions"
        checks.refuse("action", of_action == 0, action, "the logging policy could not have played it", remedy)
        if logging_propensity is not None:
            off = (of_action - logging_propensity.to(of_action.device)).abs() > 1e-4 * of_action
            problem = "differs from logging_probs of the logged action"
            checks.refuse("logging_propensity", off, logging_propensity, problem, "Pass those that were logged")
    if target_probs is None:
        return None
    checks.same_length(target_probs=target_probs, logging_probs=logging)
    if target_probs.shape != logging.shape:
        raise ValueError(
            f"logging_probs: has {logging.shape[1]} actions where target_probs has {target_probs.shape[1]}; both need "
            "one column per action"
        )
    missing = 0.0
    for rows in checks.row_slices(*logging.shape):
        part = target_probs.detach()[rows].to(torch.float64)
        missing += float(part.masked_fill(logging[rows].to(part.device) > 0, 0.0).sum())
    return missing / len(logging)
