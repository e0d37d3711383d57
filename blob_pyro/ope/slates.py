r"""Slates: rewards of several slots, where a slot's reward may depend on the slots above it.

Rows are slates of ``L`` slots, seen from the first to the last. :math:`w_{n, 1:l}` is the product of the slots'
weights up to ``l``; a slot's propensity is the probability of its item *given the items above it*.

======================  ===========================================================================================
reward interaction IPS  :math:`\frac{1}{N}\sum_n \sum_l w_{1:l}\, r_l` (McInerney et al. 2020)
cascade DR              :math:`\frac{1}{N}\sum_n \sum_l w_{1:l} (r_l - \hat Q_l(a_l)) + w_{1:l-1}
                        \sum_a \pi_l(a) \hat Q_l(a)` (Kiyohara et al. 2022, equation 5)
======================  ===========================================================================================

Both are unbiased where a slot's reward depends on it and the slots above, not on those below (the cascade model).

References:
    J. McInerney et al. "Counterfactual evaluation of slate recommendations with sequential reward interactions". KDD
    (2020). H. Kiyohara et al. "Doubly robust off-policy evaluation for ranking policies under the cascade behavior
    model". WSDM (2022).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from blob_pyro.ope import checks
from blob_pyro.ope.doubly_robust import expected_prediction, of_action
from blob_pyro.ope.estimate import Estimate
from blob_pyro.ope.moments import Moments

__all__ = ["cascade_dr", "reward_interaction_ips"]


@checks.one_row_order
def reward_interaction_ips(
    reward: Any,
    target_propensity: Any,
    logging_propensity: Any,
    *,
    slot_weight: Any = None,
    self_normalized: bool = False,
    groups: Any = None,
) -> Estimate:
    """Estimate the value of a slate policy where rewards depend on the slots above.

    Args:
        reward: ``N x L`` rewards of the slots, first slot first.
        target_propensity: ``N x L`` probabilities that the target fills the slot so, given the slots above; the value
            is differentiable in them.
        logging_propensity: ``N x L`` of the logging policy, in (0, 1].
        slot_weight: ``L`` weights of the slots' rewards in the value; 1 by default, for the slate's total.
        self_normalized: divide each slot's sum by its sum of weights, as McInerney et al. do.
        groups: ``N`` users that standard errors and resampling go by.

    Raises:
        ValueError: naming argument, row, slot (column) and remedy.

    Example:
        >>> reward_interaction_ips([[1, 0], [0, 1]], [[0.5, 0.4], [0.5, 0.8]], [[0.5, 0.5]] * 2).value
        1.3
    """
    device = checks.device_of(reward, target_propensity, logging_propensity)
    gain, weight = _slate(reward, target_propensity, logging_propensity, groups, device)
    gain = gain * _slot_weight(slot_weight, gain)
    tensor = checks.has_torch(reward, target_propensity, logging_propensity)
    if self_normalized:
        slots = gain.shape[1]
        bare = (weight.detach() != 0).any(0)
        if not bool(bare.all()):
            slot = int((~bare).nonzero()[0])
            raise ValueError(f"target_propensity, slot {slot}: the target fills it as no logged slate does; log more")
        columns = [*(weight * gain).unbind(-1), *weight.unbind(-1)]
        moments = Moments(columns, lambda m: (m[..., :slots] / m[..., slots:]).sum(-1))
    else:
        moments = Moments.mean((weight * gain).sum(-1))
    return Estimate.build(
        "reward_interaction_ips",
        moments,
        tensor=tensor,
        weights=weight[:, -1],
        support_known_by="slates' own probabilities: no argument tells",
        groups=groups,
        notes=("effective sample size and largest weight are the last slot's",),
    )


@checks.one_row_order
def cascade_dr(
    reward: Any,
    target_probs: Any,
    logging_propensity: Any,
    *,
    action: Any,
    predicted_reward: Any,
    slot_weight: Any = None,
    groups: Any = None,
) -> Estimate:
    """Correct `reward_interaction_ips` by a model of what is still to come: far less variance for good models.

    Args:
        reward: ``N x L`` rewards of the slots, first slot first.
        target_probs: ``N x L x A`` the target's probabilities of all items in each slot, given the logged slots above;
            the value is differentiable in them.
        logging_propensity: ``N x L`` probabilities with which the logging policy filled the slots, given those above.
        action: ``N x L`` logged items, columns of the last dimension.
        predicted_reward: ``N x L x A`` predicted sums of (weighted) rewards *from this slot on*, if the item is put
            there, the logged slots are above and the target fills those below.
        slot_weight: ``L`` weights of the slots' rewards in the value; 1 by default.
        groups: ``N`` users that standard errors and resampling go by.

    Raises:
        ValueError: naming argument, row and remedy. Matrices are checked slot by slot.
    """
    device = checks.device_of(reward, target_probs, logging_propensity, predicted_reward)
    target = _three_dimensions("target_probs", target_probs, device)
    predicted = _three_dimensions("predicted_reward", predicted_reward, device)
    played = checks.as_matrix("action", action, device)
    if predicted.shape != target.shape or played.shape != target.shape[:2]:
        raise ValueError(
            f"target_probs, predicted_reward, action: have shapes {tuple(target.shape)}, {tuple(predicted.shape)}, "
            f"{tuple(played.shape)}; expected N x L x A twice, and N x L"
        )
    of_played, value_of_played, expected = [], [], []
    for slot in range(target.shape[1]):
        probs = checks.probabilities(f"target_probs, slot {slot}", target[:, slot], device)
        model = checks.predictions(f"predicted_reward, slot {slot}", predicted[:, slot], device)
        item = checks.actions(f"action, slot {slot}", played[:, slot], target.shape[2], device)
        of_played.append(of_action(probs, item))
        value_of_played.append(of_action(model, item))
        expected.append(expected_prediction(probs, model))
    gain, weight = _slate(reward, torch.stack(of_played, -1), logging_propensity, groups, device)
    gain = gain * _slot_weight(slot_weight, gain)
    before = torch.cat([torch.ones_like(weight[:, :1]), weight[:, :-1]], -1)
    terms = weight * (gain - torch.stack(value_of_played, -1)) + before * torch.stack(expected, -1)
    return Estimate.build(
        "cascade_dr",
        Moments.mean(terms.sum(-1)),
        tensor=checks.has_torch(reward, target_probs, logging_propensity, predicted_reward),
        weights=weight[:, -1],
        support_known_by="slates' own probabilities: no argument tells",
        groups=groups,
        notes=("effective sample size and largest weight are the last slot's",),
    )


def _slate(reward: Any, target: Any, logging: Any, groups: Any, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Rewards, and products of weights up to each slot; ``N x L`` float64."""
    named = {"reward": reward, "target_propensity": target, "logging_propensity": logging}
    matrices = {name: checks.as_matrix(name, values, device).to(torch.float64) for name, values in named.items()}
    checks.same_length(**matrices, groups=groups)
    if len({m.shape for m in matrices.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(m.shape)}" for name, m in matrices.items())
        raise ValueError(f"slates are misaligned: {shapes}; each argument needs one column per slot")
    gain, wanted, had = matrices.values()
    checks.refuse("reward", ~torch.isfinite(gain), gain, "a reward must be finite", "Drop the slate, and say so")
    known = wanted.detach()
    bad = ~((known >= 0) & (known <= 1 + checks.ROUNDING))
    checks.refuse("target_propensity", bad, known, "a propensity lies in [0, 1]", "Pass probabilities")
    bad = ~((had > 0) & (had <= 1 + checks.ROUNDING))
    remedy = "The item was shown, so its probability was not 0: pass the logging policy's own, given the slots above"
    checks.refuse("logging_propensity", bad, had, "a logged propensity lies in (0, 1]", remedy)
    return gain, (wanted / had).cumprod(-1)


def _slot_weight(slot_weight: Any, gain: Tensor) -> Tensor:
    if slot_weight is None:
        return torch.ones(gain.shape[1], dtype=gain.dtype, device=gain.device)
    weights = checks.rewards("slot_weight", slot_weight, gain.device)
    if len(weights) != gain.shape[1]:
        raise ValueError(f"slot_weight: has {len(weights)} entries where slates have {gain.shape[1]} slots")
    return weights


def _three_dimensions(name: str, values: Any, device: torch.device | None) -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(f"{name}: expected slates x slots x items (three dimensions), got shape {tuple(tensor.shape)}")
    return tensor.to(device)
