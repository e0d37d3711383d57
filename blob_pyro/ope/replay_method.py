"""Replay: the average reward of the rows in which the target would have done what was done."""

from __future__ import annotations

from typing import Any

import torch

from blob_pyro.ope import checks
from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.moments import Moments

__all__ = ["replay"]


@checks.one_row_order
def replay(
    reward: Any,
    action: Any,
    target_action: Any,
    *,
    logging_propensity: Any = None,
    groups: Any = None,
) -> Estimate:
    """Estimate by the replay method (Li et al. 2011), for logs of uniformly random actions.

    Where every action was equally likely, the rows in which the target agrees with the log are a random sample of
    what the target would have met. Under any other logging policy they are not, and `blob_pyro.ope.snips` is the
    remedy.

    Args:
        reward: ``N`` rewards.
        action: ``N`` logged actions, whole numbers.
        target_action: ``N`` actions that the target plays (for a randomised one, one draw for each row).
        logging_propensity: ``N`` logged propensities; if given, they must be equal.
        groups: ``N`` users that standard errors and resampling go by.

    Raises:
        ValueError: naming argument, row and remedy; where propensities differ, or no row agrees.

    Example:
        >>> estimate = replay([1, 0, 1, 0], action=[2, 0, 1, 1], target_action=[2, 1, 1, 1])
        >>> round(estimate.value, 4), estimate.effective_sample_size
        (0.6667, 3.0)
    """
    device = checks.device_of(reward, action, target_action)
    gain = checks.rewards("reward", reward, device)
    played, wanted = (
        checks.whole_numbers(name, values, device)
        for name, values in (("action", action), ("target_action", target_action))
    )
    checks.same_length(reward=gain, action=played, target_action=wanted, groups=groups)
    notes = []
    if logging_propensity is None:
        notes.append("right for uniformly random logs only, which is not known: pass logging_propensity to check")
    else:
        logging = checks.logging_propensities("logging_propensity", logging_propensity, device)
        checks.same_length(reward=gain, logging_propensity=logging)
        bad = (logging - logging[0]).abs() > checks.ROUNDING * logging[0]
        remedy = "Use snips, which weighs by propensities"
        checks.refuse("logging_propensity", bad, logging, "replay is right for equal propensities only", remedy)
    agrees = (played == wanted).to(torch.float64)
    if not bool(agrees.any()):
        raise ValueError("target_action: agrees with no logged action, so there is nothing to replay; log more")
    return Estimate.build(
        "replay",
        Moments.ratio(agrees * gain, agrees),
        tensor=checks.has_torch(reward, action, target_action),
        weights=agrees,
        expected_weight=None,
        groups=groups,
        notes=(f"{int(agrees.sum()):,} rows agree", *notes),
    )
