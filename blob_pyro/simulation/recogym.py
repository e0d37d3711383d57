"""`RecoGym`: the reference environment, vectorised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from tqdm import tqdm

from blob_pyro.data import EventLog
from blob_pyro.ops.arguments import one_of, true_or_false, whole_number
from blob_pyro.ops.seeds import seeded
from blob_pyro.policies import Uniform
from blob_pyro.policies.chunked import PROBABILITIES_AT_ONCE
from blob_pyro.simulation.decisions import AnyPolicy, Oracle, check_policy
from blob_pyro.simulation.environment import Environment
from blob_pyro.simulation.memory import require_room_for_decisions, require_room_for_lives, require_room_for_log
from blob_pyro.simulation.process import HistoryMode, simulate_users
from blob_pyro.simulation.random import CounterRandom, torch_seed
from blob_pyro.simulation.sessions import Impressions, Views

__all__ = ["RecoGym", "log_of"]

# Users whose lives run side by side: enough to make a round of sessions worth its overhead, few enough for the cache.
_USERS_AT_ONCE = 16_384
# Sessions that a policy decides at once, unless told: a matrix of sessions x items that stays in cache.
_PROBABILITIES_AT_ONCE, _FEWEST_SESSIONS = 1 << 19, 256
# Distinguishes the users of logs from those of A/B tests of the same seed.
_LOG = 1
_MOST_USERS = 2**40  # numbers that a user's random numbers are addressed by


@dataclass(frozen=True, eq=False)
class RecoGym(Environment):
    """RecoGym 0.1.3.0's ``reco-gym-v1``, with the same catalogue bit for bit and the same process for users.

    The users themselves are other users: RecoGym draws them one after another from one stream, here each has
    numbers of their own (see `blob_pyro.simulation.random`), the same ones under every policy. See
    `blob_pyro.simulation.process` for the process, `blob_pyro.simulation.parameters.Settings` for the arguments, and
    `blob_pyro.simulation.RecoGymReference` for the original.

    >>> environment = RecoGym(num_items=10, num_flips=5, seed=0)
    >>> environment.simulate(num_users=20, num_organic_users=30)
    EventLog(50 users, 10 items, 685 views, 1,991 impressions in 134 distinct contexts, 18 rewarded)
    """

    def simulate(
        self,
        policy: AnyPolicy | None = None,
        num_users: int = 1000,
        num_organic_users: int = 0,
        *,
        seed: int = 0,
        first_user: int = 0,
        history: HistoryMode = "all",
        propensities: bool = True,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> EventLog:
        """Simulate a log, as RecoGym's ``generate_logs`` writes it, without its extra impression after a user has left.

        Args:
            policy: who recommends, from all the user's views before the decision. Default: `Uniform`.
            num_users: users who see recommendations; they have the numbers after the organic-only ones.
            num_organic_users: users of whom only the first organic session is logged, numbered from ``first_user``.
            seed: of the users and of the policy's draws. The same seed gives the same users to every policy and
                to environments that differ in anything but ``seed``; another seed gives a fresh sample.
            first_user: number of the first of them. A user is the same one whichever others are simulated, so a log
                goes on with fresh users from where the last one ended: ``first_user=log.users.ids[-1] + 1`` under the
                same seed, and `EventLog.concat` refuses two logs that share some.
            history: ``"since_last_action"`` hides all views but those since the last recommendation, as the agents
                of Sakhi et al. (2020) do: for reproduction only.
            propensities: log the policy's exact probability of each action. Costs one ``log_prob`` per session
                of recommendations, which Thompson sampling makes the larger part of a simulation.
            batch_size: sessions for which the policy decides in one call; by default fewer for larger catalogues.
                Actions of a policy whose distribution is not a plain ``Categorical`` depend on it (they come from
                torch's generator); nothing else does.
            progress: show a progress bar.

        Returns:
            The log; ``time`` is the index of the event in the user's life.

        Raises:
            ValueError: for a negative number of users or none at all, an unknown ``history``, or a policy for
                another catalogue.
            TypeError: for an argument of the wrong type, naming it, or something that is not a policy.
            MemoryError: for a log that does not fit, naming the argument and the number of bytes.
        """
        return log_of(
            self.num_items,
            self.played(
                policy, num_users, num_organic_users, seed=seed, first_user=first_user, history=history,
                propensities=propensities, batch_size=batch_size, progress=progress,
            ),
            propensities,
        )  # fmt: skip

    def played(
        self,
        policy: AnyPolicy | None = None,
        num_users: int = 1000,
        num_organic_users: int = 0,
        *,
        seed: int = 0,
        first_user: int = 0,
        history: HistoryMode = "all",
        propensities: bool = True,
        click_probabilities: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> list[Views | Impressions]:
        """Simulate as `simulate` does, and return the events, with their click probabilities if these are wanted.

        `log_of` makes a log of them, which knows no such thing: what a policy earned, as opposed to what it learns
        from, is the sum of these probabilities, with less noise than the clicks.

        Args:
            policy: as `simulate`.
            num_users: as `simulate`.
            num_organic_users: as `simulate`.
            seed: as `simulate`.
            first_user: as `simulate`.
            history: as `simulate`.
            propensities: as `simulate`.
            click_probabilities: whether impressions have ``click_probability``.
            batch_size: as `simulate`.
            progress: as `simulate`.

        Raises:
            ValueError: as `simulate`.
            TypeError: as `simulate`.
        """
        for name, value in (("num_users", num_users), ("num_organic_users", num_organic_users)):
            whole_number(value, name, at_least=0, at_most=_MOST_USERS)
        whole_number(seed, "seed", at_least=0, at_most=2**63 - 1)
        first_user = whole_number(first_user, "first_user", at_least=0, at_most=_MOST_USERS)
        true_or_false(propensities, "propensities")
        if num_users + num_organic_users == 0:
            raise ValueError("num_users and num_organic_users are both 0: ask for at least one user")
        organic = range(first_user, first_user + num_organic_users)
        bandit = range(organic.stop, organic.stop + num_users)
        if bandit.stop > _MOST_USERS:
            raise ValueError(f"first_user: there are {_MOST_USERS} users, and {bandit.stop} were to be the last")
        require_room_for_log(self, num_users, num_organic_users)
        policy = Uniform(self.num_items) if policy is None else policy
        events: list[Views | Impressions] = []
        own = (first_user,) if first_user else ()
        with seeded(torch_seed(self.seed, _LOG, seed, *own), self.gamma.device):
            random = CounterRandom(self.seed, _LOG, seed)
            for who, users in ((None, organic), (policy, bandit)):
                events += self.lives(
                    who, users, random, history=history, batch_size=batch_size,
                    propensities=propensities, click_probabilities=click_probabilities, progress=progress,
                )  # fmt: skip
        return events

    def lives(
        self,
        policy: AnyPolicy | None,
        users: range,
        random: CounterRandom,
        *,
        history: HistoryMode = "all",
        batch_size: int | None = None,
        propensities: bool = False,
        click_probabilities: bool = False,
        interests: bool = False,
        progress: bool | str = False,
    ) -> Iterator[Views | Impressions]:
        """Simulate everything that happens to ``users``, in portions; what `simulate` and `ab_test` are made of.

        See `blob_pyro.simulation.process.simulate_users`. Draws from torch's generator if the policy does.
        """
        one_of(history, "history", get_args(HistoryMode))
        if batch_size is None:
            fewest = max(1, min(_FEWEST_SESSIONS, PROBABILITIES_AT_ONCE // self.num_items))
            batch_size = max(fewest, _PROBABILITIES_AT_ONCE // self.num_items)
        whole_number(batch_size, "batch_size", at_most=_MOST_USERS)
        at_once = min(len(users), _USERS_AT_ONCE)
        require_room_for_lives(self, at_once, browse_only=policy is None)
        if policy is not None:
            require_room_for_decisions(self, min(batch_size, at_once))
        if policy is not None:
            check_policy(policy, self)
        label = progress if isinstance(progress, str) else "users"
        with tqdm(total=len(users), desc=label, unit="user", disable=not progress) as bar:
            for start in range(users.start, users.stop, _USERS_AT_ONCE):
                batch = torch.arange(start, min(start + _USERS_AT_ONCE, users.stop), device=self.gamma.device)
                yield from simulate_users(
                    self, policy, batch, random, history=history, batch_size=batch_size,
                    propensities=propensities, click_probabilities=click_probabilities, interests=interests,
                )  # fmt: skip
                bar.update(len(batch))

    def oracle(self) -> Oracle:
        """Return the policy that knows each user's interests and this environment's parameters: the upper bound."""
        return Oracle(self)


def log_of(num_items: int, events: Iterable[Views | Impressions], propensities: bool = True) -> EventLog:
    """Make a log of what has happened, as `RecoGym.lives` yields it.

    Args:
        num_items: size of the catalogue.
        events: of any users, in any order.
        propensities: whether impressions have them.
    """
    events = list(events)
    views = [event for event in events if isinstance(event, Views)]
    impressions = [event for event in events if isinstance(event, Impressions)]

    def column(portions: list[Views] | list[Impressions], name: str) -> torch.Tensor:
        values = [getattr(portion, name) for portion in portions]
        return torch.cat(values) if values else torch.zeros(0, dtype=torch.int64)

    return EventLog.from_arrays(
        num_items,
        view_user=column(views, "user"),
        view_time=column(views, "time"),
        view_item=column(views, "item"),
        user=column(impressions, "user"),
        time=column(impressions, "time"),
        action=column(impressions, "action"),
        reward=column(impressions, "click").to(torch.int64),
        propensity=column(impressions, "propensity") if propensities else None,
    )
