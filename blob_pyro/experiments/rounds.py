"""Log, learn, log again: what agents earn while they learn, and what they have learned.

The first round is logged by one policy for all agents. From the second on each agent's own policy recommends to
``users_per_round`` fresh users, with the probability of each recommendation in the log; then the agent learns from it.
All agents of an environment and log meet the same users, so that differences between them are paired.

The *regret* of a round is the number of its impressions times the difference of two expected click rates on its
users: the oracle's, which knows every user's interests and every click rate, and that of the policy that was played.
It is in clicks. What has been *learned* is measured on other users, of an A/B test, by the greedy twin of what plays
next: its *share* is 0 where it is as good as random items, and 1 where it is as good as the oracle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from blob_pyro import EventLog
from blob_pyro.experiments.agents import AGENTS, Agent, AgentMaker, Start
from blob_pyro.experiments.round_files import RoundFiles
from blob_pyro.experiments.rounds_result import RoundsResult
from blob_pyro.experiments.saved_runs import claim
from blob_pyro.ope import evaluate
from blob_pyro.ope.importance import NoOverlap
from blob_pyro.ops.arguments import true_or_false, whole_number
from blob_pyro.ops.seeds import check_seed, derived_seed
from blob_pyro.policies import Policy, SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym, ab_test
from blob_pyro.simulation.decisions import AnyPolicy
from blob_pyro.simulation.parameters import Settings
from blob_pyro.simulation.recogym import log_of
from blob_pyro.simulation.sessions import Impressions

__all__ = ["RoundsSettings", "rounds"]

_NUM_ROUNDS = 10


@dataclass(frozen=True)
class RoundsSettings:
    """The experiment, by its settings; each is an argument of `rounds`.

    Args:
        users_per_round: who see recommendations.
        num_organic_users: further users of whom the first round's log has views alone.
        embedding_dim: ``K`` of the organic model, which is fitted to the first round.
        test_users: of the A/B tests that measure what has been learned.
        epsilon: of `SessionPopularity`, which logs the first round.
        off_policy: whether to estimate the next policy's click rate from the round before it.
        seed: of fits and of draws.
    """

    users_per_round: int = 1000
    num_organic_users: int = 20_000
    embedding_dim: int = 20
    test_users: int = 2000
    epsilon: float = 0.3
    off_policy: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number(self.users_per_round, "users_per_round", at_least=2)
        whole_number(self.num_organic_users, "num_organic_users", at_least=0)
        whole_number(self.embedding_dim, "embedding_dim")
        whole_number(self.test_users, "test_users", at_least=2)
        true_or_false(self.off_policy, "off_policy")
        check_seed(self.seed)


@dataclass(frozen=True)
class _InCatalogues(RoundsSettings):
    """Settings, and the environments' own but for their seeds: what a folder's results have in common."""

    environment: dict[str, Any] = field(default_factory=dict)


def rounds(
    environment: RecoGym | Sequence[RecoGym],
    agents: Sequence[str] | Mapping[str, AgentMaker] | None = None,
    num_rounds: int = _NUM_ROUNDS,
    users_per_round: int = 1000,
    *,
    num_logs: int = 1,
    output: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> RoundsResult:
    """Let agents log, learn and log again in simulated catalogues, and say what that cost and brought.

    Args:
        environment: one, or several that differ in their seeds alone: intervals are over environments.
        agents: names of `blob_pyro.experiments.agents.AGENTS`, or agents of your own by name. Default: all of these.
        num_rounds: the first of which is logged by session popularity, for all agents alike.
        users_per_round: who see recommendations.
        num_logs: repetitions with other users, in each environment.
        output: a folder for every round, settings and results. A call after a kill goes on where that was; one with
            more rounds, logs, environments or agents adds to what is there.
        progress: show a progress bar, with the time that is left.
        settings: of `RoundsSettings`.

    Returns:
        Rows of all rounds, and what follows from them.

    Raises:
        ValueError: for an unknown agent, environments that differ in more than their seeds, an argument out of range;
            if ``output`` holds results of other settings.
        TypeError: for an argument of another type.

    Example:
        >>> environment = RecoGym(num_items=10, num_flips=5, seed=0)
        >>> small = {"users_per_round": 50, "num_organic_users": 100, "embedding_dim": 3, "test_users": 100}
        >>> result = rounds(environment, ["session popularity", "uniform"], 2, progress=False, **small)
        >>> result.table()[["agent", "round", "regret", "share"]].round(2).values.tolist()
        [['session popularity', 2, 44.04, 0.14], ['uniform', 2, 48.63, 0.0]]
    """
    environments = _environments(environment)
    makers = _makers(agents)
    num_rounds, num_logs = whole_number(num_rounds, "num_rounds"), whole_number(num_logs, "num_logs")
    true_or_false(progress, "progress")
    setting = RoundsSettings(users_per_round=users_per_round, **settings)
    folder = None if output is None else Path(output)
    if folder is not None:
        catalogue = {n: getattr(environments[0], n) for n in Settings.__dataclass_fields__ if n != "seed"}
        claim(_InCatalogues(**asdict(setting), environment=catalogue), folder)
    rows: list[dict[str, Any]] = []
    total = len(environments) * num_logs * len(makers) * num_rounds
    with tqdm(total=total, desc="rounds", unit="round", disable=not progress) as bar:
        for one in environments:
            for number in range(num_logs):
                scene = _Scene(one, number, setting)
                for name, maker in makers.items():
                    bar.set_postfix_str(f"environment {one.seed}, {name}")
                    place = None if folder is None else folder / "runs" / f"{one.seed}-{number}" / _slug(name)
                    about = repr(maker) if is_dataclass(maker) else name
                    for row in scene.run(maker, num_rounds, RoundFiles(place, about)):
                        rows.append({"environment": one.seed, "log": number, "agent": name, **row})
                        bar.update()
    result = RoundsResult(pd.DataFrame(rows))
    if folder is not None:
        result.save(folder)
    return result


@dataclass
class _Scene:
    """One environment and log, in which all agents play to the same users."""

    environment: RecoGym
    number: int
    setting: RoundsSettings
    _rates: dict[int, tuple[float, float]] = field(default_factory=dict)

    @cached_property
    def first(self) -> tuple[EventLog, float]:
        """The first round's log, and the expected click rate in it."""
        policy = SessionPopularity(self.environment.num_items, self.setting.epsilon)
        return self.play(policy, 1, organic=self.setting.num_organic_users)

    @cached_property
    def start(self) -> Start:
        return Start(self.first[0], self.setting.embedding_dim, self.setting.seed)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Click rates of random items and of the oracle, on the users of the A/B tests."""
        num_items = self.environment.num_items
        test = self.test({"random": Uniform(num_items), "oracle": self.environment.oracle()})
        return test["random"], test["oracle"]

    def test(self, policies: dict[str, AnyPolicy]) -> dict[str, float]:
        test = ab_test(self.environment, policies, self.setting.test_users, seed=self.number)
        return {name: test.click_rate(name).value for name in policies}

    def play(self, policy: AnyPolicy, number: int, organic: int = 0) -> tuple[EventLog, float]:
        """A round's log, and its expected clicks per impression; ``organic`` users come before those of the round."""
        size = self.setting.users_per_round
        events = self.environment.played(
            policy,
            size,
            organic,
            seed=self.number,
            first_user=self.setting.num_organic_users + (number - 1) * size - organic,
            click_probabilities=True,
        )
        log = log_of(self.environment.num_items, events)
        clicks = [event.click_probability for event in events if isinstance(event, Impressions)]
        return log, sum(float(part.sum()) for part in clicks if part is not None) / log.num_impressions

    def rates(self, number: int) -> tuple[float, float]:
        """Click rates of random items and of the oracle, on the users of a round."""
        if number not in self._rates:
            both = (Uniform(self.environment.num_items), self.environment.oracle())
            random, oracle = (self.play(policy, number)[1] for policy in both)
            self._rates[number] = random, oracle
        return self._rates[number]

    def run(self, maker: AgentMaker, num_rounds: int, files: RoundFiles) -> Iterator[dict[str, Any]]:
        """The rows of an agent's rounds: those that are over, and then the others as they end."""
        done = files.rows()[:num_rounds]
        yield from done
        if len(done) == num_rounds:
            return
        logs, agent = [self.first[0]], maker(self.start)
        for number in range(1, len(done) + 1):  # what an agent is follows from its start and the logs
            logs += [files.log(number, self.environment.num_items)] if number > 1 else []
            if number == len(done) or getattr(agent, "needs_every_round", True):
                agent.learn(logs[-1], _concat(logs))
        for number in range(len(done) + 1, num_rounds + 1):
            began = time.perf_counter()
            if number == 1:
                new, rate = self.first
            else:
                new, rate = self.play(self._policy(agent, number), number)
                logs.append(new)
            played = time.perf_counter()
            agent.learn(new, _concat(logs))
            learned = time.perf_counter()
            row = {"round": number, "play_seconds": played - began, "learn_seconds": learned - played}
            row |= self._measured(number, new, rate, agent.greedy())
            row |= self._estimated(new, self._policy(agent, number + 1))
            files.write(row, new if number > 1 else None)
            yield row

    def _policy(self, agent: Agent, number: int) -> Policy:
        return agent.policy(derived_seed(derived_seed(self.setting.seed, number), self.number))

    def _measured(self, number: int, new: EventLog, rate: float, greedy: Policy) -> dict[str, Any]:
        random, oracle = self.rates(number)
        low, high = self.bounds
        return {
            "impressions": new.num_impressions,
            "clicks": int(new.reward.sum()),
            "played": rate,
            "random": random,
            "oracle": oracle,
            "regret": new.num_impressions * (oracle - rate),
            "greedy": self.test({"greedy": greedy})["greedy"],
            "test_random": low,
            "test_oracle": high,
        }

    def _estimated(self, new: EventLog, policy: Policy) -> dict[str, float]:
        """The next policy's click rate as the round's log has it, with its standard error and effective sample size.

        NaN, from an effective sample of none, where the policy plays nothing that the log shows.
        """
        if not self.setting.off_policy:
            return {}
        try:
            estimate = evaluate(new, policy, estimators=["snips"])["snips"]
        except NoOverlap:
            return {"estimate": math.nan, "estimate_error": math.nan, "effective_sample_size": 0.0}
        return {
            "estimate": float(estimate.value),
            "estimate_error": float(estimate.standard_error),
            "effective_sample_size": float(estimate.effective_sample_size),
        }


def _concat(logs: list[EventLog]) -> EventLog:
    return logs[0] if len(logs) == 1 else EventLog.concat(logs)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _environments(environment: RecoGym | Sequence[RecoGym]) -> list[RecoGym]:
    found = [environment] if isinstance(environment, RecoGym) else list(environment)
    for number, one in enumerate(found):
        if not isinstance(one, RecoGym):
            raise TypeError(f"environment[{number}]: expected a RecoGym, got {one!r} (a {type(one).__name__})")
        for name in Settings.__dataclass_fields__:
            if name != "seed" and getattr(one, name) != getattr(found[0], name):
                raise ValueError(
                    f"environment[{number}]: has {name}={getattr(one, name)!r} and environment[0] "
                    f"{getattr(found[0], name)!r}; environments of one experiment differ in their seeds alone"
                )
    if not found:
        raise ValueError("environment: there are none; pass one at least")
    if len({one.seed for one in found}) < len(found):
        raise ValueError("environment: two have the same seed; repetitions in one environment are num_logs")
    return found


def _makers(agents: Sequence[str] | Mapping[str, AgentMaker] | None) -> dict[str, AgentMaker]:
    if agents is None:
        return dict(AGENTS)
    if isinstance(agents, str):
        raise TypeError(f"agents: expected a list of names or agents by name, got {agents!r}; one is [{agents!r}]")
    if isinstance(agents, Mapping):
        found = dict(agents)
    else:
        unknown = [name for name in agents if name not in AGENTS]
        if unknown:
            raise ValueError(f"agents: there is no {unknown[0]!r}; known: {', '.join(AGENTS)}")
        found = {name: AGENTS[name] for name in agents}
    if not found:
        raise ValueError("agents: there are none; pass one at least")
    for name, maker in found.items():
        if not callable(maker):
            raise TypeError(f"agents[{name!r}]: expected a function of a Start, got {maker!r}")
    if len({_slug(name) for name in found}) < len(found):
        raise ValueError(f"agents: names must differ in letters and digits, got {list(found)}")
    return found
