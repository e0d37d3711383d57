"""Baselines by name: from a log and a seed to a policy; a new one is one line, here or outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blob_pyro.data import EventLog
from blob_pyro.policies.base import Policy
from blob_pyro.policies.baselines.als import ALS
from blob_pyro.policies.baselines.contextual_bandit import ContextualBandit
from blob_pyro.policies.baselines.ease import EASE
from blob_pyro.policies.baselines.factorization_machine import FactorizationMachine
from blob_pyro.policies.baselines.gru import GRU
from blob_pyro.policies.baselines.item_knn import ItemKNN, SessionItemKNN
from blob_pyro.policies.baselines.lin_ts import LinTS
from blob_pyro.policies.baselines.lin_ucb import LinUCB
from blob_pyro.policies.baselines.logistic_regression import LogisticRegression
from blob_pyro.policies.baselines.multi_vae import MultiVAE
from blob_pyro.policies.baselines.popularity import Popularity
from blob_pyro.policies.baselines.view_factors import ViewFactors
from blob_pyro.policies.scored import Greedy
from blob_pyro.policies.uniform import Uniform

__all__ = ["BASELINES", "Baseline", "register_baseline"]

Baseline = Callable[[EventLog, int], Policy]
"""From a log and a seed to a policy that has learned from it."""


def _fitted(model: Any, log: EventLog, **options: Any) -> Policy:
    model.fit(log, **options)
    return Greedy(model)


_GRU = {"num_epochs": 5, "batch_size": 512, "progress": False}


def _linear(make: Callable[..., Any], log: EventLog) -> Any:
    features = ViewFactors(log, min(10, log.num_items - 1, len(log.sessions) - 1))
    model = make(log.items, features, features.num_features)
    model.update(log)
    return model


BASELINES: dict[str, Baseline] = {
    "random": lambda log, seed: Uniform(log.items),
    "popularity": lambda log, seed: Greedy(Popularity(log)),
    "ItemKNN": lambda log, seed: Greedy(ItemKNN(log)),
    "session ItemKNN": lambda log, seed: Greedy(SessionItemKNN(log)),
    "EASE": lambda log, seed: Greedy(EASE(log)),
    "ALS": lambda log, seed: Greedy(ALS(log, seed=seed)),
    "MultiVAE": lambda log, seed: _fitted(MultiVAE(log.num_items), log, seed=seed),
    "GRU": lambda log, seed: _fitted(GRU(log.num_items), log, seed=seed, **_GRU),
    "logistic regression": lambda log, seed: _fitted(LogisticRegression(log.num_items), log),
    "contextual bandit": lambda log, seed: _fitted(ContextualBandit(log.num_items), log),
    "factorisation machine": lambda log, seed: _fitted(FactorizationMachine(log.num_items), log, seed=seed),
    "LinUCB": lambda log, seed: Greedy(_linear(LinUCB, log)),
    "LinTS": lambda log, seed: _linear(LinTS, log),
}
"""``BASELINES[name](log, seed)`` is a policy. "ALS" needs the extra ``als``, "contextual bandit" propensities."""


def register_baseline(name: str, baseline: Baseline) -> None:
    """Make a baseline known by name, to published tables and whatever else goes through `BASELINES`.

    Raises:
        TypeError: for a name that is no text, or a baseline that cannot be called.
        ValueError: for a name that is taken.
    """
    if not isinstance(name, str) or not callable(baseline):
        raise TypeError(f"baseline: expected a name and a function of a log and a seed, got {name!r}, {baseline!r}")
    if name in BASELINES:
        raise ValueError(f"name: {name!r} is taken; known: {', '.join(sorted(BASELINES))}")
    BASELINES[name] = baseline
