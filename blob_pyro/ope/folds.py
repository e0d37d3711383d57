"""Users dealt to folds, and the log of some users only: what a reward model may see when others are predicted."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from blob_pyro.data import EventLog

__all__ = ["fold_of_users", "only_users"]


def fold_of_users(num_users: int, folds: int, seed: int) -> Tensor:
    """Deal users to folds at random, of sizes that differ by one at most; ``num_users`` int64.

    Raises:
        ValueError: for fewer than two folds, or fewer users than folds.
    """
    if not 2 <= folds <= num_users:
        raise ValueError(f"folds: expected 2 to {num_users}, one for each user at most, got {folds}")
    return torch.randperm(num_users, generator=torch.Generator().manual_seed(seed)) % folds


def only_users(log: EventLog, keep: Tensor) -> EventLog:
    """Keep the views and impressions of some users; items, user numbers and all that is known of either stay.

    Args:
        log: of all users.
        keep: boolean, one entry for each user.
    """
    viewed, shown = keep[log.view_user], keep[log.user]
    context_kept = torch.zeros(len(log.contexts), dtype=torch.bool)
    context_kept[log.context[shown]] = True
    viewers = torch.unique(log.view_user)

    def pick(column: Tensor | None) -> Tensor | None:
        return None if column is None else column[shown]

    return dataclasses.replace(
        log,
        view_user=log.view_user[viewed],
        view_time=log.view_time[viewed],
        view_item=log.view_item[viewed],
        user=log.user[shown],
        time=log.time[shown],
        action=log.action[shown],
        reward=log.reward[shown],
        propensity=pick(log.propensity),
        propensity_error=pick(log.propensity_error),
        position=pick(log.position),
        score=pick(log.score),
        policy=pick(log.policy),
        policy_version=pick(log.policy_version),
        covariates={name: covariate[shown] for name, covariate in log.covariates.items()},
        context=(context_kept.cumsum(0) - 1)[log.context[shown]],
        contexts=log.contexts[context_kept.nonzero().squeeze(-1)],
        sessions=log.sessions[keep[viewers].nonzero().squeeze(-1)],
        earlier=_views_of(log.earlier, keep),
        row=pick(log.row),
    )


def _views_of(log: EventLog | None, keep: Tensor) -> EventLog | None:
    """Keep what is remembered of some users."""
    if log is None or not bool(keep[log.view_user].any()):
        return None
    some = keep[log.view_user]
    return EventLog.of_views(
        log.items, log.view_item[some], log.users, log.view_user[some], log.view_time[some], log.clock
    )
