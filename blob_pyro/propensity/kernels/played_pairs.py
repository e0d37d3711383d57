"""Probabilities of the actions that were played in contexts that come back: each pair of the two is asked for once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["log_probs_of_pairs"]


def log_probs_of_pairs(
    context: Tensor,
    action: Tensor,
    num_contexts: int,
    num_actions: int,
    at_once: int,
    log_probs: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Ask for the log-probability of each distinct pair of context and action once, all of a context's together.

    Args:
        context: B, int64, numbers of the contexts.
        action: B, int64, what was played there.
        num_contexts: how many contexts there are; of one in which nothing was played nothing is asked.
        num_actions: A.
        at_once: contexts of one call, at most.
        log_probs: from contexts, n, and J actions in each of them, n x J, to n x J.

    Returns:
        B, float64.

    >>> def log_probs(context, action):
    ...     print(context.tolist(), action.tolist())
    ...     return action.double()
    >>> context, action = torch.tensor([2, 2, 0, 2]), torch.tensor([5, 4, 3, 5])
    >>> log_probs_of_pairs(context, action, 3, 6, 10, log_probs)
    [2, 0] [[4, 5], [3, 3]]
    tensor([5., 4., 3., 5.], dtype=torch.float64)
    """
    pair, place = torch.unique(context * num_actions + action, return_inverse=True)
    context, action = pair // num_actions, pair % num_actions
    number = torch.bincount(context, minlength=num_contexts)
    before = number.cumsum(0) - number
    found = torch.empty(len(pair), dtype=torch.float64, device=action.device)
    # Contexts in which equally many actions were played together.
    order = number.argsort(descending=True)[: int((number > 0).sum())]
    for some in order.split(max(1, at_once)) if len(order) else ():
        at = before[some, None] + torch.arange(int(number[some[0]]), device=action.device)
        there = at < (before + number)[some, None]
        at = torch.where(there, at, before[some, None])
        found[at[there]] = log_probs(some, action[at])[there]
    return found[place]
