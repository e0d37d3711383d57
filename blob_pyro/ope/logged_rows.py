"""A log and a policy reduced to what estimators need of each impression: never all contexts times all items at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from blob_pyro.data import EventLog, Histories
from blob_pyro.ope import checks
from blob_pyro.policies import Policy

__all__ = ["LoggedRows", "RewardModel", "read_rows", "slots_of"]


@runtime_checkable
class RewardModel(Protocol):
    """A model that predicts rewards: `blob_pyro.BLOB`, or anything that knows as much."""

    def click_probabilities(self, histories: Any) -> Tensor:
        """Return the probability of a click on each item after each history, ``N x P``."""


AnyRewardModel = RewardModel | Callable[[Histories], Any] | Tensor | np.ndarray
Predict = Callable[[Tensor], Tensor]
"""From numbers of contexts to predictions of all items there."""


@dataclass(frozen=True)
class LoggedRows:
    """``N`` impressions in the order of time, with what the policies and the reward model say of them.

    The item that was shown and all others together are enough for every estimator that has one weight per row: a
    policy's mass on the others, and its average prediction there, give the same sums as the whole catalogue. So
    ``target_probs`` and ``predicted_reward`` have two columns, and ``action`` is 0.

    Attributes:
        reward, target, logging: ``N``; probabilities of the item shown.
        baseline: ``N``, of the policy that the target is compared with; None for the value alone.
        prediction, expected: ``N``, predicted reward of the item shown, and of the target on average; None without a
            reward model.
        support: share of the target's mass on items that the logging policy never shows; None if not known.
        groups: ``N``, or None.
        folds: number of folds of what is cross-fitted.
    """

    reward: Tensor
    target: Tensor
    logging: Tensor
    baseline: Tensor | None
    prediction: Tensor | None
    expected: Tensor | None
    support: float | None
    groups: Any
    folds: int

    @property
    def action(self) -> Tensor:
        """The column of the item shown: 0."""
        return torch.zeros(len(self.reward), dtype=torch.int64)

    @property
    def target_probs(self) -> Tensor:
        """The target's probabilities, ``N x 2``: of the item shown, and of all others."""
        return torch.stack([self.target, 1 - self.target], -1)

    @property
    def predicted_reward(self) -> Tensor:
        """The predictions, ``N x 2``: of the item shown, and of the others as the target plays them."""
        if self.prediction is None or self.expected is None:
            raise ValueError("reward_model: is needed by this estimator; pass BLOB, predictions, or fit=...")
        rest = 1 - self.target
        alone = rest <= 0
        others = (self.expected - self.target * self.prediction) / torch.where(alone, 1.0, rest)
        return torch.stack([self.prediction, torch.where(alone, self.prediction, others)], -1)


def read_rows(
    log: EventLog,
    policy: Policy,
    baseline: Policy | str | None,
    logging_policy: Policy | None,
    predict: list[tuple[Tensor, Predict]],
    groups: Any,
    folds: int,
    at_once: int = 1 << 22,
) -> LoggedRows:
    """Ask the policies and models about each distinct context once, for a few contexts at a time.

    Args:
        log: with propensities.
        policy: to be valued.
        baseline: what it is compared with: a policy, ``"logging"`` for the one that logged, or None.
        logging_policy: the one that logged, if it is known, for the support.
        predict: contexts (boolean, one entry each) and what predicts their rewards; none for no reward model.
        groups: ``N`` in the log's order, or None.
        folds: see `LoggedRows`.
        at_once: contexts times items of a chunk.
    """
    assert log.propensity is not None
    rows, contexts, items = log.num_impressions, len(log.contexts), log.num_items
    order_of_context = torch.argsort(log.context, stable=True)
    first = torch.searchsorted(log.context[order_of_context], torch.arange(contexts + 1))
    named = {"target": policy, "baseline": baseline if isinstance(baseline, Policy) else None, "logs": logging_policy}
    of_row = {name: torch.zeros(rows, dtype=torch.float64) for name in (*named, "prediction", "expected")}
    missing = 0.0
    slot, slots = slots_of(log)
    step = max(1, at_once // (items * slots))
    for start in range(0, contexts, step):
        chunk = torch.arange(start, min(start + step, contexts))
        mine = order_of_context[int(first[start]) : int(first[chunk[-1] + 1])]
        local, action = log.context[mine] - start, log.action[mine]
        cell = local * slots + slot[mine]
        histories = log.contexts[chunk]
        probs = {}
        for name, one in named.items():
            if one is not None:
                probs[name] = _probabilities(one, histories, name, slots)
                of_row[name][mine] = probs[name][cell, action]
        if logging_policy is not None:
            gap = probs["target"].masked_fill(probs["logs"] > 0, 0.0).sum(-1)
            missing += float(gap[cell].sum())
        for wanted, model in predict:
            some = wanted[chunk].nonzero().squeeze(-1)
            if len(some):
                answer = checks.predictions("reward_model", model(chunk[some])).to(torch.float64).cpu()
                if answer.shape != (len(some), items):
                    raise ValueError(f"reward_model: gave {tuple(answer.shape)}, expected {(len(some), items)}")
                place = torch.full((len(chunk),), -1)
                place[some] = torch.arange(len(some))
                here = place[local] >= 0
                of_row["prediction"][mine[here]] = answer[place[local[here]], action[here]]
                of_slots = probs["target"].unflatten(0, (-1, slots))[some]
                expected = (of_slots * answer.unsqueeze(1)).sum(-1)
                of_row["expected"][mine[here]] = expected[place[local[here]], slot[mine[here]]]
    if logging_policy is not None:
        _check_logging(log, of_row["logs"])
    time = torch.argsort(log.time, stable=True)
    compared = log.propensity.cpu().to(torch.float64) if baseline == "logging" else of_row["baseline"]
    return LoggedRows(
        reward=log.reward.cpu().to(torch.float64)[time],
        target=of_row["target"][time],
        logging=log.propensity.cpu().to(torch.float64)[time],
        baseline=None if baseline is None else compared[time],
        prediction=of_row["prediction"][time] if predict else None,
        expected=of_row["expected"][time] if predict else None,
        support=None if logging_policy is None else missing / rows,
        groups=None if groups is None else groups[time.numpy()],
        folds=folds,
    )


def slots_of(log: EventLog) -> tuple[Tensor, int]:
    """Find the slot of each row, ``N`` int64 from 0, and how many there are: one, unless the log is of slates.

    It is if a user has several positions at one time, and positions count from 1 (as those of `Policy.decide`) or 0.
    """
    none = torch.zeros(log.num_impressions, dtype=torch.int64)
    if log.position is None or log.num_impressions < 2:
        return none, 1
    position = log.position.cpu()
    together = (log.user.diff() == 0) & (log.time.diff() == 0)
    lowest = int(position.min())
    if lowest not in (0, 1) or not bool((together & (position.diff() != 0)).any()):
        return none, 1
    return position - lowest, int(position.max()) - lowest + 1


def _probabilities(policy: Policy, histories: Histories, name: str, slots: int) -> Tensor:
    """Of all items in each slot after each history, ``(C L) x P`` float64; a sum off by rounding is set right."""
    with torch.no_grad():
        if slots == 1:
            probs = policy.action_distribution(histories).probs.to("cpu", torch.float64)
        else:
            probs = policy.slate_distribution(histories, slots).probs.cpu().movedim(-1, 1).flatten(0, 1)
    argument = {"target": "policy", "baseline": "baseline", "logs": "logging_policy"}[name]
    checks.probabilities(f"{argument}'s probabilities", probs)
    result: Tensor = probs / probs.sum(-1, keepdim=True)
    return result


def _check_logging(log: EventLog, of_policy: Tensor) -> None:
    assert log.propensity is not None
    logged = log.propensity.cpu().to(torch.float64)
    off = (of_policy - logged).abs() > 1e-2 * logged
    remedy = "Pass the policy that logged, or leave logging_policy out"
    checks.refuse("logging_policy", off, of_policy, "differs by over 1 % from the propensity that was logged", remedy)
