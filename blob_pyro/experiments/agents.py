"""Agents that log, learn and log again: what `blob_pyro.experiments.rounds` lets play.

An agent is made from a `Start`, what everybody knows after the first round, and from then on has a policy, and learns
from each round's log. One of your own is such a class, or any function from a start to an object with these parts:

    class Mine:
        def __init__(self, start):
            self.model = MyModel(start.log)

        def learn(self, new, everything):
            self.model.fit(everything)

        def policy(self, seed):
            return EpsilonGreedy(self.model, 0.05)

        def greedy(self):
            return Greedy(self.model)

    rounds(environment, {"mine": Mine, "greedy": AGENTS["greedy"]})
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.data import Histories
from blob_pyro.models import BanditPriors
from blob_pyro.ops.arguments import one_of
from blob_pyro.policies import (
    BayesianLogisticRegression,
    EpsilonGreedy,
    Greedy,
    LogisticThompsonSampling,
    Policy,
    PosteriorDraws,
    SessionPopularity,
    ThompsonSampling,
    TopTwoThompsonSampling,
    Uniform,
)
from blob_pyro.policies.baselines import LinTS

__all__ = ["AGENTS", "Agent", "AgentMaker", "BLOBAgent", "Start", "UpdatedPolicy", "register_agent"]

_BASE_LOGIT = -4.5  # clicks are rare, about one in a hundred


@dataclass
class Start:
    """Everything that all agents of one environment and log begin with.

    Args:
        log: of the first round, with organic views of other users.
        embedding_dim: of ``blo``.
        seed: of every fit.
    """

    log: EventLog
    embedding_dim: int = 20
    seed: int = 0

    @cached_property
    def blo(self) -> BLO:
        """The organic model of the first round's views, fitted once for all agents."""
        blo = BLO(self.log.num_items, self.embedding_dim)
        blo.fit(self.log, seed=self.seed, progress=False, device="cpu")
        return blo.frozen()


class Agent(Protocol):
    """Something that plays and learns. What it is after a round follows from its start and the logs: see `rounds`."""

    def learn(self, new: EventLog, everything: EventLog) -> None:
        """Learn from the newest round.

        Args:
            new: the round's log, views and impressions of users whom nobody has met before.
            everything: it, and all logs before.
        """

    def policy(self, seed: int) -> Policy:
        """Return the policy that plays the next round.

        Args:
            seed: another one each round, for what is drawn once for a round.
        """

    def greedy(self) -> Policy:
        """Return the policy that would play if nothing were left to learn."""


AgentMaker = Callable[[Start], Agent]
"""From what everybody knows to an agent that has not learned from it yet: the first call of `learn` has that log."""


@dataclass(frozen=True)
class BLOBAgent:
    """Makes agents that play from a `blob_pyro.BLOB`.

    Args:
        explore: "thompson", "top_two", "epsilon" or "greedy".
        learn: "refit" on everything, or "update" by the newest log alone.
        guide: of the model.
        omega: "mean" or "sample" of the organic posterior.
        epsilon: of "epsilon".
        num_draws: of the posterior each round, for "thompson" and "top_two": one is picked for each decision, so that
            propensities are exact, and cheap: `PosteriorDraws`.
        priors: name of a constructor of `BanditPriors`, or None for what `BLOB` has by default.
        num_epochs: of a fit or update; the guide's own number if None.
    """

    explore: Literal["thompson", "top_two", "epsilon", "greedy"] = "thompson"
    learn: Literal["refit", "update"] = "refit"
    guide: str = "laplace"
    omega: Literal["mean", "sample"] = "mean"
    epsilon: float = 0.1
    num_draws: int = 256
    priors: str | None = None
    num_epochs: int | None = None

    def __post_init__(self) -> None:
        one_of(self.explore, "explore", ("thompson", "top_two", "epsilon", "greedy"))
        one_of(self.learn, "learn", ("refit", "update"))

    def __call__(self, start: Start) -> _PlaysBLOB:
        """Make the agent, before it has learned."""
        return _PlaysBLOB(self, start)


class _PlaysBLOB:
    def __init__(self, settings: BLOBAgent, start: Start) -> None:
        self.settings, self.start = settings, start
        priors: BanditPriors | None = None if settings.priors is None else getattr(BanditPriors, settings.priors)()
        self.blob = BLOB(start.blo, guide=settings.guide, priors=priors, omega=settings.omega)
        self.needs_every_round = settings.learn == "update"

    def learn(self, new: EventLog, everything: EventLog) -> None:
        """Learn from the newest round; see `Agent.learn`."""
        options: dict[str, Any] = {"seed": self.start.seed, "progress": False}
        options |= {} if self.settings.num_epochs is None else {"num_epochs": self.settings.num_epochs}
        if self.settings.learn == "update" and self.blob.fitted:
            self.blob.update(new, **options)
        else:
            self.blob.fit(everything, device="cpu", **options)

    def policy(self, seed: int) -> Policy:
        """Return the policy that plays the next round; see `Agent.policy`."""
        if self.settings.explore == "greedy":
            return Greedy(self.blob)
        if self.settings.explore == "epsilon":
            return EpsilonGreedy(self.blob, self.settings.epsilon)
        thompson = ThompsonSampling(PosteriorDraws(self.blob, self.settings.num_draws, seed))
        return thompson if self.settings.explore == "thompson" else TopTwoThompsonSampling(thompson)

    def greedy(self) -> Policy:
        """Return the policy that exploits; see `Agent.greedy`."""
        return Greedy(self.blob)


class UpdatedPolicy:
    """An agent that is a policy: one that takes each round's log by its own ``update``, or one that never learns.

    Args:
        policy: what plays.
        exploits: what would play if nothing were left to learn; by default ``policy``.
    """

    def __init__(self, policy: Policy, exploits: Policy | None = None) -> None:
        self._policy, self._exploits = policy, policy if exploits is None else exploits
        self.needs_every_round = hasattr(policy, "update")

    def learn(self, new: EventLog, everything: EventLog) -> None:
        """Learn from the newest round; see `Agent.learn`."""
        if hasattr(self._policy, "update"):
            self._policy.update(new)

    def policy(self, seed: int) -> Policy:
        """Return the policy that plays the next round; see `Agent.policy`."""
        return self._policy

    def greedy(self) -> Policy:
        """Return the policy that exploits; see `Agent.greedy`."""
        return self._exploits


class _Interests:
    """Features of a history: one, and its expected interest."""

    def __init__(self, blo: BLO) -> None:
        self.blo = blo

    def __call__(self, histories: Histories) -> Tensor:
        interest = self.blo.embed(histories)
        return torch.cat([torch.ones_like(interest[:, :1]), interest], -1)


def _logistic_thompson(start: Start) -> UpdatedPolicy:
    size, num_items = start.blo.embedding_dim + 1, start.log.num_items
    prior = torch.zeros(num_items, size, dtype=torch.float64)
    prior[:, 0] = _BASE_LOGIT
    regression = BayesianLogisticRegression(size, num_items, prior_loc=prior)
    policy = LogisticThompsonSampling(start.log.items, _Interests(start.blo), regression)
    return UpdatedPolicy(policy, Greedy(policy))


def _lin_ts(start: Start) -> UpdatedPolicy:
    features, size = _Interests(start.blo), start.blo.embedding_dim + 1
    policy = LinTS(start.log.items, features, size)
    return UpdatedPolicy(policy, Greedy(policy))


AGENTS: dict[str, AgentMaker] = {
    "greedy": BLOBAgent("greedy"),
    "epsilon-greedy": BLOBAgent("epsilon"),
    "Thompson": BLOBAgent("thompson"),
    "top-two Thompson": BLOBAgent("top_two"),
    "greedy, recommended priors": BLOBAgent("greedy", priors="recommended"),
    "epsilon-greedy, recommended priors": BLOBAgent("epsilon", priors="recommended"),
    "Thompson, recommended priors": BLOBAgent("thompson", priors="recommended"),
    "Thompson, recommended priors, updated": BLOBAgent("thompson", learn="update", priors="recommended"),
    "greedy, updated": BLOBAgent("greedy", learn="update"),
    "Thompson, updated": BLOBAgent("thompson", learn="update"),
    "Thompson, omega sampled": BLOBAgent("thompson", guide="normal", omega="sample"),
    "LinTS": _lin_ts,
    "logistic Thompson": _logistic_thompson,
    "session popularity": lambda start: UpdatedPolicy(SessionPopularity(start.log.items)),
    "uniform": lambda start: UpdatedPolicy(Uniform(start.log.items)),
}
"""Agents by name; those that play from a `blob_pyro.BLOB` are a `BLOBAgent` each."""


def register_agent(name: str, maker: AgentMaker) -> None:
    """Make an agent known by name, to `rounds` and the command line.

    Raises:
        TypeError: for a name that is no text, or a maker that cannot be called.
        ValueError: for a name that is taken.
    """
    if not isinstance(name, str) or not callable(maker):
        raise TypeError(f"maker: expected a name and a function of a Start, got {name!r}, {maker!r}")
    if name in AGENTS:
        raise ValueError(f"name: {name!r} is taken; known: {', '.join(AGENTS)}")
    AGENTS[name] = maker
