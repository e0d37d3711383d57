"""Slates of a policy that is known by its distribution over single actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from blob_pyro.policies.restricted import restricted
from blob_pyro.policies.slates.base import Contexts, RepeatableSlates
from blob_pyro.policies.slates.plackett_luce import PlackettLuceSlates
from blob_pyro.policies.slates.scores import BetaSlates, NormalSlates
from blob_pyro.propensity import ArgmaxBeta, ArgmaxLogNormal, ArgmaxNormal

__all__ = ["slates_of"]

_Make = Callable[[Any, Tensor, int], RepeatableSlates]


def slates_of(actions: TorchDistribution, contexts: Contexts, num_slots: int) -> RepeatableSlates:
    """Make the slates whose first slot holds what ``actions`` play among the candidates.

    Where actions are the best of independent normal, lognormal or Beta scores, a slate is the best few of one draw of
    all scores, in order. Of other distributions only their probabilities are known: slots are filled one after
    another, in proportion to the probabilities of the items that are left.

    Args:
        actions: over all items, batch shape ``(n,)``.
        contexts: ``n`` of them.
        num_slots: ``L``.

    Raises:
        ValueError: for contexts in which fewer candidates than slots have a probability.
    """
    if tuple(actions.batch_shape) != (len(contexts),):
        raise ValueError(
            f"action_distribution: must have batch_shape ({len(contexts)},), one distribution for each history, got "
            f"{tuple(actions.batch_shape)}"
        )
    make = next((_OF[kind] for kind in type(actions).__mro__ if kind in _OF), None)
    if make is not None:
        return make(actions, contexts.mask, num_slots)
    with torch.no_grad():
        probs = restricted(actions, contexts.allowed, contexts.first).probs
    return PlackettLuceSlates(probs, num_slots, contexts.first)


def _normal(actions: ArgmaxNormal | ArgmaxLogNormal, mask: Tensor, num_slots: int) -> RepeatableSlates:
    loc, scale = _rows(actions, "loc"), _rows(actions, "scale")
    return NormalSlates(loc, scale, mask, num_slots, minimum=actions.minimum)


def _beta(actions: ArgmaxBeta, mask: Tensor, num_slots: int) -> RepeatableSlates:
    click, none = _rows(actions, "concentration1"), _rows(actions, "concentration0")
    return BetaSlates(click, none, mask, num_slots, minimum=actions.minimum)


def _rows(actions: Any, name: str) -> Tensor:
    result: Tensor = getattr(actions, name).detach().expand(*actions.batch_shape, actions.num_actions)
    return result


_OF: dict[type, _Make] = {ArgmaxNormal: _normal, ArgmaxLogNormal: _normal, ArgmaxBeta: _beta}
