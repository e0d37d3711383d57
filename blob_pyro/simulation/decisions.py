"""Actions of a whole session, and their propensities, from a policy's distribution.

A categorical distribution is inverted at the users' own uniforms, so that its actions are common random numbers
too. Of any other distribution we know that it can be sampled: its actions come from torch's generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache, partial

import pyro.distributions as dist
import torch
from torch import Tensor

from blob_pyro.data import Histories
from blob_pyro.policies import Policy, ThompsonSampling
from blob_pyro.policies.repeated import log_prob_each, sample_each
from blob_pyro.simulation.environment import Environment

__all__ = ["AnyPolicy", "Decisions", "InformedPolicy", "Oracle", "check_policy", "sample_by_inversion"]


class InformedPolicy(ABC):
    """A policy that knows the users' interests, which no real policy does: a bound, not a competitor."""

    num_items: int

    @abstractmethod
    def action_distribution_given_interests(self, omega: Tensor) -> dist.TorchDistribution:
        """Return the distribution over items for users with interests ``omega``, ``N x embedding_dim``."""


class Oracle(InformedPolicy):
    """Plays the item with the highest click probability for the interests at the start of the session.

    Args:
        environment: whose ``beta`` and ``mu_bandit`` it knows.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.num_items = environment.num_items

    def action_distribution_given_interests(self, omega: Tensor) -> dist.TorchDistribution:
        """Return a distribution with all probability on the best item."""
        best = self.environment.click_probability(omega).argmax(-1)
        return dist.Categorical(probs=torch.nn.functional.one_hot(best, self.num_items).to(omega.dtype))


AnyPolicy = Policy | InformedPolicy


def check_policy(policy: AnyPolicy, environment: Environment, name: str = "policy") -> None:
    """Refuse what cannot recommend in this environment.

    Raises:
        TypeError: if ``policy`` has no ``action_distribution``.
        ValueError: if it has another number of items.
    """
    if not isinstance(policy, InformedPolicy) and not hasattr(policy, "action_distribution"):
        raise TypeError(
            f"{name} must be a policy with action_distribution(histories), got {type(policy).__name__}; "
            f"wrap a model in a policy, for example Greedy(model)"
        )
    if policy.num_items != environment.num_items:
        raise ValueError(
            f"{name} has num_items={policy.num_items}, the environment has {environment.num_items}; "
            f"build the policy for the environment's catalogue"
        )


def sample_by_inversion(probs: Tensor, row: Tensor, uniform: Tensor) -> Tensor:
    """Draw categorical values by the quantile function of given uniforms.

    Args:
        probs: ``N x P``, nonnegative; rows need not be normalised.
        row: ``M`` int64, the distribution of each draw.
        uniform: ``M``, float64 in the open interval (0, 1).

    Returns:
        ``M`` int64 in ``0 .. P - 1``.

    >>> uniform = torch.tensor([0.2, 0.49, 0.51, 0.99], dtype=torch.float64)
    >>> sample_by_inversion(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([0, 0, 0, 0]), uniform)
    tensor([0, 0, 2, 2])
    """
    num_items = probs.shape[1]
    return _cell_by_inversion(probs, row, uniform).sub_(row * num_items)


def _cell_by_inversion(probs: Tensor, row: Tensor, uniform: Tensor) -> Tensor:
    """The same, as places in the flat ``probs``."""
    num_items = probs.shape[1]
    # All rows end to end make one sorted sequence: row r runs from where row r - 1 ends to where it ends itself.
    cumulative = probs.reshape(-1).cumsum(0, dtype=torch.float64)
    end = cumulative[num_items - 1 :: num_items]
    start = torch.cat([end.new_zeros(1), end[:-1]])
    target = torch.addcmul(start.index_select(0, row), uniform, (end - start).index_select(0, row))
    # Rounding must not carry a uniform near 1 into the next row.
    target = torch.minimum(target, torch.nextafter(end, start).index_select(0, row))
    # right=True: an item without probability ends where it starts and is stepped over.
    return torch.searchsorted(cumulative, target, right=True)


def _of(uniform: Callable[[], Tensor], part: Tensor) -> Tensor:
    return uniform()[part]


def _all_alike(rows: Tensor) -> bool:
    few = rows[:2]  # where these differ already the others need not be looked at
    return bool((few == few[:1]).all()) and bool((rows == rows[:1]).all())


class _Choice:
    """One distribution over actions per user, fixed for a session."""

    def __init__(
        self, distribution: dist.TorchDistribution, num_users: int, num_items: int, device: torch.device
    ) -> None:
        if tuple(distribution.batch_shape) != (num_users,):
            raise ValueError(
                f"action_distribution must have batch_shape ({num_users},), one distribution per history, "
                f"got {tuple(distribution.batch_shape)}"
            )
        self.distribution, self.device, self.num_users, self.num_items = distribution, device, num_users, num_items
        # Not isinstance: a subclass may know its probabilities only at a price, which sampling need not pay.
        plain = type(distribution) in (torch.distributions.Categorical, dist.Categorical)
        self.probs: Tensor | None = distribution.probs.to(device) if plain else None
        # A policy that ignores histories, such as `Uniform`: one row says it all, and stays in cache.
        self.shared = self.probs is not None and _all_alike(self.probs)

    def draw(self, session: Tensor, uniform: Callable[[], Tensor], propensities: bool) -> tuple[Tensor, Tensor | None]:
        if self.probs is not None:
            row = torch.zeros_like(session) if self.shared else session
            probs = self.probs[:1] if self.shared else self.probs
            cell = _cell_by_inversion(probs, row, uniform())
            actions = cell if self.shared else cell - row * self.num_items
            return actions, probs.reshape(-1).index_select(0, cell).to(torch.float64) if propensities else None
        counts = torch.bincount(session, minlength=self.num_users)
        actions = sample_each(self.distribution, counts, self.num_items).to(self.device)
        if not propensities:
            return actions, None
        return actions, log_prob_each(self.distribution, counts, actions).to(self.device).exp()


class Decisions:
    """The actions of a policy in one session of recommendations of each of ``N`` users.

    Thompson sampling whose propensities are conditional has one draw of the shared parameters for each session, as it
    has one history: its propensities are those given the draw.

    Args:
        policy: called once, on all the users.
        histories: the views that it sees.
        omega: ``N x embedding_dim``, the interests that only an `InformedPolicy` sees.
        forget: whether the views are out of sight from the second recommendation on; the policy is then
            called a second time, with empty histories.
    """

    def __init__(self, policy: AnyPolicy, histories: Histories, omega: Tensor, forget: bool = False) -> None:
        def choose(histories: Histories) -> _Choice:
            if isinstance(policy, InformedPolicy):
                distribution = policy.action_distribution_given_interests(omega)
            elif isinstance(policy, ThompsonSampling) and policy.propensity == "conditional":
                seed = int(torch.randint(2**63 - 1, (), device=omega.device))
                distribution = policy.given_draw(histories, seed=seed)
            else:
                distribution = policy.action_distribution(histories)
            return _Choice(distribution, len(omega), histories.num_items, omega.device)

        self._first = choose(histories)
        self._rest = None
        if forget:
            nothing = torch.zeros_like(histories.lengths)
            self._rest = choose(Histories(histories.views, nothing, nothing, histories.num_items))

    def draw(
        self, session: Tensor, position: Tensor, uniform: Callable[[], Tensor], propensities: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Draw actions, with their propensities if wanted.

        Args:
            session: ``M`` int64, whose recommendation it is: ``0 .. N - 1``, in ascending order.
            position: ``M`` int64, its place in the session, from 0.
            uniform: returns ``M`` float64 in (0, 1); asked if the policy is categorical.
            propensities: whether to compute the policy's probabilities of the actions.

        Returns:
            ``M`` int64, and ``M`` float64 or None.
        """
        if self._rest is None:
            return self._first.draw(session, uniform, propensities)
        action, propensity = torch.empty_like(session), torch.empty_like(session, dtype=torch.float64)
        uniform = cache(uniform)  # both parts are of one draw
        for choice, part in ((self._first, position == 0), (self._rest, position > 0)):
            if not part.any():
                continue
            of_part = partial(_of, uniform, part)
            action[part], probability = choice.draw(session[part], of_part, propensities)
            if probability is not None:
                propensity[part] = probability
        return action, propensity if propensities else None
