"""Coverage of off-policy intervals in RecoGym, where Thompson sampling logs with each kind of propensities.

In each environment a BLOB learns from a small log, and its Thompson sampling logs fresh users, again and again. Two
other policies are valued from these logs: Thompson sampling of a BLOB that learnt from the same log under a narrower
prior ("sharper"), and an epsilon-greedy one. All of them look at the latest view only: contexts are few then, and their
propensities cheap, while users, their clicks and what clicks do to them are RecoGym's own. Propensities are of three
kinds, as those of `blob_pyro.policies.ThompsonSampling` are:

* ``"estimate"``: Thompson sampling, by probabilities from 4,096 points; those that are logged are known to a tolerance;
* ``"mixture"``: a finite mixture over shared draws; propensities exact;
* ``"conditional"``: Thompson sampling with one draw of the shared parameters for each session; propensities exact
  given it.

The truth is that of the logged contexts: the average of ``sum_a target(a | history) click(a | user)`` over all rows,
as the environment knows each user's click probabilities. Intervals are clustered by user. An A/B test of the same
policies says what else there is: with another policy users click, and so come back, at other times, and contexts are
other ones.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor

from blob_pyro import BLO, BLOB
from blob_pyro.data import EventLog, Histories
from blob_pyro.models import BanditPriors
from blob_pyro.ope import (
    Estimate,
    UnreliableIntervalWarning,
    beta_ips,
    delta_beta_ips,
    delta_ips,
    delta_snips,
    doubly_robust,
    ips,
    snips,
)
from blob_pyro.ope.reliability import skewness, unit_influences
from blob_pyro.ops.arguments import one_of
from blob_pyro.ops.seeds import seeded
from blob_pyro.policies import EpsilonGreedy, Policy, SessionPopularity, ThompsonSampling
from blob_pyro.propensity import PropensityToleranceWarning
from blob_pyro.simulation import RecoGym, ab_test
from blob_pyro.simulation.random import CounterRandom, torch_seed
from blob_pyro.simulation.recogym import log_of
from blob_pyro.simulation.sessions import Impressions

__all__ = ["DIFFERENCE", "KINDS", "OffPolicyCoverage", "Players"]

KINDS = ("estimate", "mixture", "conditional")
"""Of propensities."""
SHARPER, GREEDY = "sharper Thompson", "epsilon-greedy"
DIFFERENCE = f"{SHARPER} - {GREEDY}"
_START, _LOGS, _TEST = 1, 9, 3  # streams of users


class Players(NamedTuple):
    """The policies of one environment.

    Attributes:
        environment: where they play.
        logging: by the kind of its propensities.
        targets: what is valued, by name.
        predicted: click probabilities by the logging BLOB, which has seen none of the logs, ``(1 + P) x P``: of all
            items after no view and after each item.
    """

    environment: RecoGym
    logging: dict[str, Policy]
    targets: dict[str, Policy]
    predicted: Tensor


class Remembered(Policy):
    """A policy that looks at the latest view only, so that all its probabilities can be computed once.

    Args:
        acts: ``... x (1 + P) x P`` probabilities of items after no view and after each item; of several draws of what
            items share, one is taken for each history that is asked about, which in a simulation is a session.
        logs: probabilities that are logged instead of those that it acts by, ``(1 + P) x P``; None for the same.
    """

    def __init__(self, acts: Tensor, logs: Tensor | None = None) -> None:
        super().__init__(acts.shape[-1])
        self.acts, self.logs = acts.flatten(0, -3) if acts.dim() > 2 else acts.unsqueeze(0), logs

    def action_distribution(self, histories: Histories | Any) -> dist.TorchDistribution:
        """Return the distribution of the item played after each history: see `Policy.action_distribution`."""
        history = self.histories(histories)
        latest = torch.where(history.lengths > 0, history.starts + history.lengths - 1, 0)
        view = torch.where(history.lengths > 0, history.views[latest] + 1, 0)
        draw = torch.zeros_like(view) if len(self.acts) == 1 else torch.randint(len(self.acts), view.shape)
        probs = self.acts[draw, view]
        return dist.Categorical(probs=probs) if self.logs is None else _Logged(probs, self.logs[view])


class _Logged(dist.Categorical):
    """Items drawn by some probabilities, and logged with others."""

    def __init__(self, probs: Tensor, logged: Tensor) -> None:
        super().__init__(probs=probs)
        self.logged = logged

    def log_prob(self, value: Tensor) -> Tensor:
        return self.logged.expand(*value.shape, -1).gather(-1, value.unsqueeze(-1)).squeeze(-1).log()


class _Rows(NamedTuple):
    reward: Tensor
    action: Tensor
    propensity: Tensor
    user: Tensor


class _Target(NamedTuple):
    probs: Tensor
    played: Tensor
    truth: float


@dataclass(frozen=True)
class OffPolicyCoverage:
    """Many logs of Thompson sampling, from each of which two other policies are valued.

    Args:
        num_items: size of the catalogue; half of the items behave differently when recommended.
        num_start_users: whose log the BLOBs learn from, logged by session popularity.
        num_organic_users: who only browse, for the BLO below.
        num_users: of each log.
        logging_kappa_scale, sharper_kappa_scale: prior scales of the items' own click logits of the BLOB that logs, and
            of the one that is valued. Conditional propensities have light tails only where items' own logits are in
            doubt.
        shared_draws: of the mixture, and of the sharper policy.
        tolerance: relative standard error of estimated propensities.
        conditional_draws: of what items share, among which each session has one where propensities are conditional.
        epsilon: of the epsilon-greedy policy.
        num_test_users: of the A/B test.
        first_environment, num_environments: seeds; block number ``n`` is of environment
            ``first_environment + n % num_environments``.
        logs_per_block: logs that are simulated together, of different users.
    """

    num_items: int = 10
    num_start_users: int = 100
    num_organic_users: int = 2000
    num_users: int = 150
    logging_kappa_scale: float = 1.0
    sharper_kappa_scale: float = 0.5
    shared_draws: int = 32
    tolerance: float = 0.05
    conditional_draws: int = 256
    epsilon: float = 0.1
    num_test_users: int = 4000
    first_environment: int = 200
    num_environments: int = 2
    logs_per_block: int = 25

    def players(self, seed: int) -> Players:
        """Return the policies of an environment, fitted when they are first asked for."""
        if seed not in self._known:
            self._known[seed] = self._fit(seed)
        return self._known[seed]

    def run(self, block: int, kind: str) -> pd.DataFrame:
        """Simulate fresh logs, and estimate: a row for each log, policy (or difference) and estimator.

        Args:
            block: its number, which seeds it and says which environment it is of.
            kind: of propensities, one of `KINDS`.

        Returns:
            Columns ``block``, ``environment``, ``kind``, ``log``, ``target``, ``estimator``, ``value``,
            ``standard_error``, ``low`` and ``high`` (95 %, by user), ``truth`` (on the logged contexts),
            ``effective_sample_size``, ``skewness`` (of the estimate), ``warned``, ``rows`` and ``clicks``.
        """
        one_of(kind, "kind", KINDS)
        seed = self.first_environment + block % self.num_environments
        players = self.players(seed)
        events, click = self.simulate(players, kind, block)
        with torch.no_grad():
            probs = {
                name: policy.action_distribution(events.contexts).probs.to(torch.float64)[events.context]
                for name, policy in players.targets.items()
            }
        history = events.contexts
        latest = history.views[(history.starts + history.lengths - 1).clamp(min=0)]
        predicted = players.predicted[torch.where(history.lengths > 0, latest + 1, 0)][events.context]
        assert events.propensity is not None
        number = torch.from_numpy(np.asarray(events.users.ids))[events.user] // self.num_users
        parts = []
        for log in range(self.logs_per_block):
            mine = number == log
            rows = _Rows(*(column[mine] for column in (events.reward, events.action, events.propensity, events.user)))
            targets = {name: _target(of[mine], rows.action, click[mine]) for name, of in probs.items()}
            part = pd.DataFrame(_judged(_estimates(rows, targets, predicted[mine]), targets))
            part = part.assign(log=log, rows=int(mine.sum()), clicks=int(rows.reward.sum()))
            parts.append(part)
        return pd.concat(parts, ignore_index=True).assign(block=block, environment=seed, kind=kind)

    def simulate(self, players: Players, kind: str, block: int) -> tuple[EventLog, Tensor]:
        """Simulate all users of a block: their log, and every item's true click probability at each row, ``N x P``."""
        environment, number = players.environment, KINDS.index(kind)
        random = CounterRandom(environment.seed, _LOGS, block, number)
        users = range(self.num_users * self.logs_per_block)
        with seeded(torch_seed(environment.seed, _LOGS, block, number), "cpu"):
            lives = list(environment.lives(players.logging[kind], users, random, propensities=True, interests=True))
        shown = [event for event in lives if isinstance(event, Impressions)]
        user, time = (torch.cat([getattr(part, name) for part in shown]) for name in ("user", "time"))
        interests = torch.cat([part.interests for part in shown if part.interests is not None])
        order = torch.from_numpy(np.lexsort((time.numpy(), user.numpy())))  # as a log has its rows
        return log_of(self.num_items, lives), environment.click_probability(interests[order])

    def ab_test(self, seed: int) -> pd.DataFrame:
        """Measure click rates of fresh users, a row per policy: ``environment``, ``target``, ``rate``, ``error``."""
        players = self.players(seed)
        policies = {"logging": players.logging["mixture"], **players.targets}
        test = ab_test(players.environment, policies, self.num_test_users, seed=_TEST)
        found = {name: test.click_rate(name) for name in policies} | {DIFFERENCE: test.difference(SHARPER, GREEDY)}
        return pd.DataFrame(
            [
                {"environment": seed, "target": name, "rate": rate.value, "error": rate.standard_error}
                for name, rate in found.items()
            ]
        )

    @cached_property
    def _known(self) -> dict[int, Players]:
        return {}

    def _fit(self, seed: int) -> Players:
        environment = RecoGym(num_items=self.num_items, num_flips=self.num_items // 2, seed=seed)
        start = environment.simulate(
            SessionPopularity(self.num_items, epsilon=0.3), self.num_start_users, self.num_organic_users, seed=_START
        )
        blo = BLO(self.num_items, embedding_dim=min(10, self.num_items))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # better fitted or not, it is a policy
            blo.fit(start, seed=0, progress=False)
            wide, narrow = (
                BLOB(blo, priors=BanditPriors(kappa_scale=scale))
                for scale in (self.logging_kappa_scale, self.sharper_kappa_scale)
            )
            wide.fit(start, seed=0, progress=False)
            narrow.fit(start, seed=0, progress=False)
        contexts = Histories.from_sequences([[], *([item] for item in range(self.num_items))], self.num_items)

        def probs(policy: Policy) -> Tensor:
            found: Tensor = policy.action_distribution(contexts).probs
            return found.to(torch.float64)

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", PropensityToleranceWarning)  # what they miss, they miss: coverage will say
            estimate = ThompsonSampling(wide, num_points=4, num_replicates=8, tolerance=self.tolerance)
            every = torch.arange(self.num_items)[:, None].expand(-1, len(contexts))
            estimated = estimate.action_distribution(contexts).log_prob(every).exp().mT.to(torch.float64)
            draws = torch.arange(len(contexts)).repeat(self.conditional_draws)
            given = ThompsonSampling(wide, propensity="conditional").given_draw(contexts[draws], seed=seed)
            logging: dict[str, Policy] = {
                "estimate": Remembered(probs(ThompsonSampling(wide, num_points=512)), estimated),
                "mixture": Remembered(probs(ThompsonSampling(wide, shared_draws=self.shared_draws))),
                "conditional": Remembered(given.probs.view(-1, *estimated.shape)),
            }
            targets: dict[str, Policy] = {
                SHARPER: Remembered(probs(ThompsonSampling(narrow, shared_draws=self.shared_draws, seed=1))),
                GREEDY: Remembered(probs(EpsilonGreedy(narrow, self.epsilon))),
            }
            predicted = wide.click_probabilities(contexts)
        return Players(environment, logging, targets, predicted.to(torch.float64))


def _target(probs: Tensor, action: Tensor, click: Tensor) -> _Target:
    probs = probs / probs.sum(-1, keepdim=True)
    return _Target(probs, probs.gather(-1, action[:, None]).squeeze(-1), float((probs * click).sum(-1).mean()))


def _estimates(rows: _Rows, targets: dict[str, _Target], predicted: Tensor) -> dict[str, dict[str, Estimate]]:
    reward, logging, user = rows.reward, rows.propensity, rows.user
    found: dict[str, dict[str, Estimate]] = {}
    for name, target in targets.items():
        found[name] = {
            "IPS": ips(reward, target.played, logging, groups=user),
            "SNIPS": snips(reward, target.played, logging, groups=user),
            "beta-IPS": beta_ips(reward, target.played, logging, groups=user),
            "DR": doubly_robust(
                reward, target.probs, logging, action=rows.action, predicted_reward=predicted, groups=user
            ),
        }
    pair = targets[SHARPER].played, targets[GREEDY].played
    found[DIFFERENCE] = {
        "IPS": delta_ips(reward, *pair, logging, groups=user),
        "SNIPS": delta_snips(reward, *pair, logging, groups=user),
        "beta-IPS": delta_beta_ips(reward, *pair, logging, groups=user),
    }
    return found


def _judged(found: dict[str, dict[str, Estimate]], targets: dict[str, _Target]) -> list[dict[str, Any]]:
    truths = {name: target.truth for name, target in targets.items()}
    truths[DIFFERENCE] = truths[SHARPER] - truths[GREEDY]
    return [
        {"target": name, "estimator": estimator, **_judge(estimate), "truth": truths[name]}
        for name, estimates in found.items()
        for estimator, estimate in estimates.items()
    ]


def _judge(estimate: Estimate) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        low, high = estimate.interval()
    return {
        "value": float(estimate.value),
        "standard_error": estimate.standard_error,
        "low": float(low),
        "high": float(high),
        "effective_sample_size": estimate.effective_sample_size,
        "skewness": skewness(unit_influences(estimate.moments.influences(), estimate.groups, estimate.num_groups or 0)),
        "warned": any(issubclass(w.category, UnreliableIntervalWarning) for w in raised),
    }
