"""Contexts that are alike, found, so that what is costly is computed once for each kind."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.data import Histories
from blob_pyro.policies.slates.base import Contexts

__all__ = ["distinct_contexts"]


def distinct_contexts(contexts: Contexts) -> tuple[Tensor, Tensor]:
    """Find the first context of each kind, and the kind of each context.

    Contexts are alike if their histories are, view by view, and their candidates. With covariates all are different.

    Args:
        contexts: ``n`` of them.

    Returns:
        ``U`` int64, ``n`` int64.
    """
    everyone = torch.arange(len(contexts), device=contexts.histories.device)
    if contexts.covariates is not None or len(contexts) < 2:
        return everyone, everyone
    history, allowed = contexts.histories, contexts.allowed
    key = _key(history)
    if allowed is not None and allowed.stride(0) != 0:  # not one set for all
        key = key + (allowed * _numbers(allowed.shape[1], 1).to(allowed.device)).sum(-1)
    kinds, kind = torch.unique(key, return_inverse=True)
    first = torch.full_like(kinds, len(everyone)).scatter_reduce_(0, kind, everyone, "amin")
    same = _equal(history, history[first[kind]])
    if allowed is not None and allowed.stride(0) != 0:
        same = same and bool((allowed == allowed[first[kind]]).all())
    return (first, kind) if same else (everyone, everyone)  # keys of 64 bits may collide


def _key(history: Histories) -> Tensor:
    """A number for each history: of its views and of their places, so that equal histories have equal ones."""
    items, row = history.flatten()
    within = torch.arange(len(items), device=items.device) - (history.lengths.cumsum(0) - history.lengths)[row]
    of_view = _mixed(items * 0x2545F491 + within * 0x7C15BB + 1)
    return history.lengths.clone().index_add_(0, row, of_view)


def _mixed(number: Tensor) -> Tensor:
    """Integers without pattern, by multiplication and shifts modulo 2^64 (Stafford's variant of MurmurHash's)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        number = (number ^ (number >> shift)) * factor
    return number ^ (number >> 31)


def _numbers(size: int, stream: int) -> Tensor:
    return _mixed(torch.arange(1, size + 1) * 0x9E3779B9 + stream)


def _equal(one: Histories, other: Histories) -> bool:
    return torch.equal(one.lengths, other.lengths) and torch.equal(one.flatten()[0], other.flatten()[0])
