"""Policies by name, made from a model; a new one is one class and one line, here or outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data import Histories
from blob_pyro.policies.base import Policy
from blob_pyro.policies.logistic_regression import BayesianLogisticRegression
from blob_pyro.policies.logistic_thompson import LogisticThompsonSampling
from blob_pyro.policies.mixture import Mixture
from blob_pyro.policies.normal_scores import NormalScores
from blob_pyro.policies.scored import EpsilonGreedy, Greedy, Softmax
from blob_pyro.policies.session_popularity import SessionPopularity
from blob_pyro.policies.thompson import ThompsonSampling
from blob_pyro.policies.top_two_thompson import TopTwoThompsonSampling
from blob_pyro.policies.uniform import Uniform

__all__ = ["POLICIES", "PolicyMaker", "register_policy"]

PolicyMaker = Callable[[Any], Policy]
"""From a fitted `blob_pyro.BLOB`, or a model with the same methods, to a policy over its catalogue."""


class _WithIntercept:
    """Features of a history: one, and its interest."""

    def __init__(self, blo: Any) -> None:
        self.blo = blo

    def __call__(self, histories: Histories) -> Tensor:
        interest = self.blo.embed(histories)
        return torch.cat([torch.ones_like(interest[:, :1]), interest], -1)


def _logistic(model: Any) -> LogisticThompsonSampling:
    """One that has seen no rewards yet: see `LogisticThompsonSampling.update`."""
    regression = BayesianLogisticRegression(model.blo.embedding_dim + 1, len(model.items))
    return LogisticThompsonSampling(model.items, _WithIntercept(model.blo), regression)


class _WithNoise:
    """A model's scores, and a standard deviation of one for each of them."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, histories: Histories) -> tuple[Tensor, Tensor]:
        scores = self.model.scores(histories)
        return scores, torch.ones_like(scores)


POLICIES: dict[str, PolicyMaker] = {
    "uniform": lambda model: Uniform(model.items),
    "session_popularity": lambda model: SessionPopularity(model.items),
    "greedy": Greedy,
    "epsilon_greedy": EpsilonGreedy,
    "softmax": Softmax,
    "thompson_sampling": ThompsonSampling,
    "thompson_conditional": lambda model: ThompsonSampling(model, propensity="conditional"),
    "thompson_mixture": lambda model: ThompsonSampling(model, shared_draws=32),
    "top_two_thompson_sampling": lambda model: TopTwoThompsonSampling(ThompsonSampling(model, shared_draws=32)),
    "logistic_thompson_sampling": lambda model: LogisticThompsonSampling(
        model.items,
        _WithIntercept(model.blo),
        BayesianLogisticRegression(model.blo.embedding_dim + 1, len(model.items)),
    ),
    "normal_scores": lambda model: NormalScores(model.items, _WithNoise(model)),
    "mixture": lambda model: Mixture([Softmax(model), SessionPopularity(model.items), Uniform(model.items)]),
}


def register_policy(name: str, make: PolicyMaker) -> None:
    """Make a policy known by name.

    What is known is tested: the frequencies of its own draws have to agree with its own propensities.

    Args:
        name: not taken yet.
        make: from a fitted `blob_pyro.BLOB` to the policy.

    Raises:
        ValueError: for a name that is taken.
        TypeError: for what cannot be called.

    Example:
        >>> register_policy("cold_softmax", lambda model: Softmax(model, temperature=0.1))
        >>> _ = POLICIES.pop("cold_softmax")
    """
    if name in POLICIES:
        raise ValueError(f"name: a policy {name!r} is known already; choose another name")
    if not callable(make):
        raise TypeError(f"make: expected a function from a model to a policy, got {make!r}")
    POLICIES[name] = make
