"""Users dealt to folds, and the log of some users only: what a reward model may see when others are predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.data import EventLog
from blob_pyro.data.log_parts import part

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
    return part(log, keep[log.user].numpy(), keep[log.view_user].numpy(), renumber=False)
