"""The real RecoGym 0.1.3.0, and the only file that knows it exists.

RecoGym is from 2021. To run today it needs its dependencies left out at installation (it declares TensorFlow and
Jupyter and imports neither), the ``rand`` that SciPy has dropped, and a constructor instead of ``gym.make``, whose
checker refuses it. Nothing here is imported before it is used; SciPy and NumPy's global generator are left as found.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor

from blob_pyro.data import Histories
from blob_pyro.ops.arguments import one_of, whole_number
from blob_pyro.ops.seeds import seeded
from blob_pyro.policies import Policy
from blob_pyro.simulation.memory import require_room_for_catalogue
from blob_pyro.simulation.parameters import Settings, StaticParameters
from blob_pyro.simulation.process import HistoryMode
from blob_pyro.simulation.random import torch_seed

if TYPE_CHECKING:
    from recogym.agents import Agent
    from recogym.envs import RecoEnv1

__all__ = ["AgentPolicy", "RecoGymReference", "agent_from_policy", "session_popularity_agent"]

# RecoGym's log keeps user ids as unsigned, and its environment keeps item ids as signed, 16-bit integers.
_MOST_USERS, _MOST_ITEMS = 2**16, 2**15


@dataclass(frozen=True)
class RecoGymReference(Settings):
    """RecoGym's own ``RecoEnv1``, for data that the original has made and for checking the vectorised `RecoGym`.

    Some 33 users per second. The arguments are those of `blob_pyro.simulation.parameters.Settings`.

    Raises:
        ImportError: on first use, if RecoGym is not installed, with the two commands that install it.
        ValueError: for a catalogue of more than 32,768 items, which RecoGym's 16-bit item ids cannot tell apart.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_items > _MOST_ITEMS:
            raise ValueError(
                f"num_items must be at most {_MOST_ITEMS} (RecoGym has 16-bit item ids), got {self.num_items}; "
                f"the vectorised RecoGym has no such limit"
            )

    def make(self) -> RecoEnv1:
        """Make a new environment, as ``gym.make("reco-gym-v1")`` and ``init_gym`` would have made it."""
        require_room_for_catalogue(self)
        _import_recogym()
        from recogym.envs import RecoEnv1, env_1_args

        environment = RecoEnv1()
        environment.init_gym(
            {
                **env_1_args,
                "num_products": self.num_items,
                "number_of_flips": self.num_flips,
                "random_seed": self.seed,
                "K": self.embedding_dim,
                "sigma_omega_initial": self.sigma_omega_initial,
                "sigma_omega": self.sigma_omega,
                "sigma_mu_organic": self.sigma_mu_organic,
                "prob_leave_bandit": self.prob_leave_bandit,
                "prob_leave_organic": self.prob_leave_organic,
                "prob_bandit_to_organic": self.prob_bandit_to_organic,
                "prob_organic_to_bandit": self.prob_organic_to_bandit,
                "normalize_beta": self.normalize_beta,
                "change_omega_for_bandits": self.change_omega_for_bandits,
            }
        )
        return environment

    def static_parameters(self) -> StaticParameters:
        """Return the catalogue that RecoGym itself draws."""
        env = self.make()
        return StaticParameters(env.Gamma, env.mu_organic.ravel(), env.beta, env.mu_bandit.ravel())

    def simulate(
        self,
        policy: Policy | Agent | None = None,
        num_users: int = 1000,
        num_organic_users: int = 0,
        *,
        epoch: int = 0,
        history: HistoryMode = "all",
        progress: bool = False,
    ) -> pd.DataFrame:
        """Run RecoGym's ``generate_logs``, untouched: `blob_pyro.EventLog.from_recogym` reads the frame.

        The frame has one impression too many per user who sees recommendations: RecoGym asks for an action once
        more after the user has left, and logs it without a click. ``EventLog.from_recogym`` drops these rows.

        Args:
            policy: one of our policies (its propensities are logged in ``ps``), a RecoGym agent, or None for
                RecoGym's uniform default.
            num_users: users who see recommendations; they have the ids after the organic-only ones.
            num_organic_users: users of whom only the first organic session is logged.
            epoch: added to the seed of the users' random numbers, not to that of the catalogue.
            history: what a policy of ours sees; see `blob_pyro.simulation.ab_test`. Agents decide for themselves.
            progress: show RecoGym's progress bars.

        Returns:
            Columns ``t``, ``u``, ``z``, ``v``, ``a``, ``c``, ``ps``, ``ps-a``.

        Raises:
            ValueError: for more users than RecoGym's 16-bit user ids can tell apart, or a negative number.
        """
        for name, value in (("num_users", num_users), ("num_organic_users", num_organic_users), ("epoch", epoch)):
            whole_number(value, name, at_least=0)
        one_of(history, "history", get_args(HistoryMode))
        if num_users + num_organic_users > _MOST_USERS:
            raise ValueError(
                f"num_users + num_organic_users must be at most {_MOST_USERS} (RecoGym's log has 16-bit user ids "
                f"and would merge users), got {num_users + num_organic_users}; simulate several epochs, or use RecoGym"
            )
        environment = self.make()
        environment.reset_random_seed(epoch)
        agent = (
            agent_from_policy(policy, seed=self.seed + epoch, history=history) if isinstance(policy, Policy) else policy
        )
        with _progress_bars(progress):
            result: pd.DataFrame = environment.generate_logs(num_users, agent, num_organic_users)
            return result


def session_popularity_agent(num_items: int, epsilon: float = 0.3, seed: int = 0) -> Agent:
    """Make RecoGym's ``OrganicUserEventCounterAgent`` as the BLOB experiments log with it.

    With probability ``epsilon`` a uniform choice among items that the user has not viewed, else an item in
    proportion to its views. The two supports are disjoint, so the ``ps`` that the agent logs, the probability of
    the branch times that of the item in it, is the exact propensity. Its ``ps-a`` is not: that is the distribution
    given the branch. Once a user has viewed all items the exploring branch is empty, and the agent divides by zero.
    """
    _import_recogym()
    from recogym import Configuration
    from recogym.agents import OrganicUserEventCounterAgent, organic_user_count_args

    arguments = {**organic_user_count_args, "num_products": num_items, "epsilon": epsilon, "random_seed": seed}
    return OrganicUserEventCounterAgent(Configuration(arguments))


def agent_from_policy(policy: Policy, seed: int = 0, history: HistoryMode = "all") -> Agent:
    """Make a RecoGym agent that plays one of our policies and logs its exact propensities.

    Args:
        policy: called once for each change of a user's history, with a batch of one.
        seed: of the agent's draws, which leave torch's global generator alone.
        history: all the user's views, or those since the last recommendation.
    """
    _import_recogym()
    from recogym import Configuration
    from recogym.agents import Agent

    class PolicyAgent(Agent):
        """Keeps the history that RecoGym deals out in portions."""

        def __init__(self) -> None:
            super().__init__(Configuration({"num_products": policy.num_items}))
            self.draws = 0
            self.reset()

        def reset(self) -> None:
            self.views: list[int] = []
            self.distribution: Any = None

        def act(self, observation: Any, reward: float | None, done: bool) -> dict[str, Any]:
            news = [int(view["v"]) for view in observation.sessions()]
            if history == "since_last_action":
                self.views, self.distribution = news, None
            elif news:
                self.views, self.distribution = [*self.views, *news], None
            self.draws += 1
            with seeded(torch_seed(seed, self.draws), "cpu"), torch.no_grad():
                if self.distribution is None:
                    context = Histories.from_sequences([self.views], policy.num_items)
                    self.distribution = policy.action_distribution(context)
                action = self.distribution.sample()
                propensity = float(self.distribution.log_prob(action).exp())
            return {**super().act(observation, reward, done), "a": int(action), "ps": propensity, "ps-a": ()}

    return PolicyAgent()


class AgentPolicy(Policy):
    """A RecoGym agent, trained or in no need of it, as a policy of ours.

    Works for agents that look at views only. An agent reveals the probability of the action that it has just taken
    and no other, so the distributions can be sampled, and know the ``log_prob`` of what they have sampled.

    Args:
        agent: the agent; it is reset for every history.
        num_items: its ``num_products``.
    """

    def __init__(self, agent: Agent, num_items: int) -> None:
        super().__init__(num_items)
        self.agent = agent

    def action_distribution(self, histories: Histories | Any) -> AgentActions:
        """Return the distribution of the item played after each history; see `Policy.action_distribution`."""
        return AgentActions(self.agent, self.histories(histories))


class AgentActions(dist.TorchDistribution):
    """The actions of a RecoGym agent after each of ``N`` histories; see `AgentPolicy`."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own convention

    def __init__(self, agent: Agent, histories: Histories) -> None:
        self.agent, self.histories = agent, histories
        self._seen: list[dict[int, float]] = [{} for _ in range(len(histories))]
        super().__init__(batch_shape=torch.Size([len(histories)]), validate_args=False)

    @property
    def support(self) -> Any:
        """The numbers of the items."""
        return torch.distributions.constraints.integer_interval(0, self.histories.num_items - 1)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Ask the agent; shape ``sample_shape x N``."""
        draws = torch.Size(sample_shape).numel()
        columns = [self._act(n, views, draws) for n, views in enumerate(self.histories.to_sequences())]
        actions = torch.tensor(columns, dtype=torch.int64).reshape(len(columns), draws).T
        return actions.reshape(*sample_shape, len(columns)).to(self.histories.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log of the ``ps`` that the agent reported when it took this action after this history.

        Raises:
            ValueError: for an action that was never sampled, whose probability the agent has not told.
        """
        flat = value.reshape(-1, len(self._seen)).tolist()
        unknown = [(n, a) for row in flat for n, a in enumerate(row) if a not in self._seen[n]]
        if unknown:
            raise ValueError(
                f"value: action {unknown[0][1]} after history {unknown[0][0]} was never sampled, and a RecoGym agent "
                f"tells the probability of its own actions only; sample more, or write the policy as a Policy"
            )
        probs = [[self._seen[n][a] for n, a in enumerate(row)] for row in flat]
        return torch.tensor(probs, dtype=torch.float64, device=value.device).log().reshape(value.shape)

    def _act(self, row: int, views: list[int], draws: int) -> list[int]:
        from recogym import DefaultContext, Observation
        from recogym.envs.session import OrganicSessions

        self.agent.reset()
        session, now = OrganicSessions(), DefaultContext(len(views), row)
        for time, view in enumerate(views):
            session.next(DefaultContext(time, row), view)
        actions = []
        for _ in range(draws):
            act = self.agent.act(Observation(now, session), None, False)
            self._seen[row][int(act["a"])] = float(act["ps"])
            actions.append(int(act["a"]))
            session = OrganicSessions()  # nothing new between two recommendations
        return actions


@contextlib.contextmanager
def _progress_bars(show: bool) -> Iterator[None]:
    """RecoGym's bars, which it offers no way to switch off."""
    from recogym.envs import abstract

    original = abstract.trange
    abstract.trange = partial(original, disable=not show)
    try:
        yield
    finally:
        abstract.trange = original


def _import_recogym() -> ModuleType:
    """RecoGym, imported without its noise and without a trace elsewhere."""
    if sys.modules.get("recogym") is not None:
        return sys.modules["recogym"]
    import scipy

    state = np.random.get_state()  # noqa: NPY002 - RecoGym draws a default seed from it at import
    borrowed = not hasattr(scipy, "rand")
    if borrowed:
        scipy.rand = np.random.rand
    try:
        with _without_gym_notice():
            import recogym
    except ImportError as error:
        raise ImportError(
            "RecoGym 0.1.3.0 cannot be imported. Install what it needs, then RecoGym without the dependencies "
            "that it only declares:\n    pip install 'blob-pyro[recogym]'\n    pip install --no-deps recogym==0.1.3.0"
        ) from error
    finally:
        np.random.set_state(state)  # noqa: NPY002
        if borrowed:
            del scipy.rand
    module: ModuleType = recogym
    return module


@contextlib.contextmanager
def _without_gym_notice() -> Iterator[None]:
    """Keep gym from printing that it is unmaintained: whoever runs RecoGym has no other choice."""
    try:
        notices: Any = importlib.import_module("gym_notices.notices")
    except ImportError:  # then gym has nothing to print
        yield
        return
    original, notices.notices = notices.notices, {}
    try:
        yield
    finally:
        notices.notices = original
