"""How a policy's distribution becomes the actions of a whole session, and their propensities.

A categorical distribution is inverted at the users' own uniforms, so that its actions are common random numbers
too. Of any other distribution we know that it can be sampled: its actions come from torch's generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor

from blob_pyro.data import Histories
from blob_pyro.policies import Policy
from blob_pyro.simulation.environment import Environment

__all__ = ["AnyPolicy", "Decisions", "InformedPolicy", "Oracle", "check_policy", "sample_by_inversion"]

# Actions drawn at once from a distribution that is not categorical: Thompson sampling needs a score per item each.
_DRAWS_AT_ONCE = 16


class InformedPolicy(ABC):
    """A policy that knows the users' interests, which no real policy does: a bound, not a competitor."""

    num_items: int

    @abstractmethod
    def action_distribution_given_interests(self, omega: Tensor) -> dist.TorchDistribution:
        """Distribution over items for users with interests ``omega``, ``N x embedding_dim``; batch shape ``(N,)``."""


class Oracle(InformedPolicy):
    """Plays the item with the highest click probability for the interests at the start of the session.

    Args:
        environment: whose ``beta`` and ``mu_bandit`` it knows.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.num_items = environment.num_items

    def action_distribution_given_interests(self, omega: Tensor) -> dist.TorchDistribution:
        """All probability on the best item."""
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


def sample_by_inversion(probs: Tensor, uniform: Tensor) -> Tensor:
    """Categorical draws as the quantile function of given uniforms.

    Args:
        probs: ``N x P``, nonnegative; rows need not be normalised.
        uniform: ``N x M``, float64 in the open interval (0, 1).

    Returns:
        ``N x M`` int64 in ``0 .. P - 1``.

    >>> sample_by_inversion(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([[0.2, 0.49, 0.51, 0.99]]).double())
    tensor([[0, 0, 2, 2]])
    """
    cumulative = probs.to(torch.float64).cumsum(-1)
    # right=True: an item without probability ends where it starts and is stepped over.
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return index.clamp_(max=probs.shape[-1] - 1)


class _Choice:
    """One distribution over actions per user, fixed for a session."""

    def __init__(self, distribution: dist.TorchDistribution, num_users: int, device: torch.device) -> None:
        if tuple(distribution.batch_shape) != (num_users,):
            raise ValueError(
                f"action_distribution must have batch_shape ({num_users},), one distribution per history, "
                f"got {tuple(distribution.batch_shape)}"
            )
        self.distribution, self.device = distribution, device
        # Not isinstance: a subclass may know its probabilities only at a price, which sampling need not pay.
        plain = type(distribution) in (torch.distributions.Categorical, dist.Categorical)
        self.probs = distribution.probs.to(device) if plain else None

    def draw(self, uniform: Tensor) -> Tensor:
        """Actions, one per uniform: ``N x M``."""
        if self.probs is not None:
            return sample_by_inversion(self.probs, uniform)
        blocks = [
            self.distribution.sample((min(_DRAWS_AT_ONCE, uniform.shape[1] - at),))
            for at in range(0, uniform.shape[1], _DRAWS_AT_ONCE)
        ]
        return torch.cat(blocks).T.to(self.device) if blocks else uniform.to(torch.int64)

    def propensity(self, actions: Tensor) -> Tensor:
        """The policy's probability of each of ``N x M`` actions, float64."""
        if self.probs is not None:
            return self.probs.gather(1, actions).to(torch.float64)
        return self.distribution.log_prob(actions.T).T.to(self.device, torch.float64).exp()


class Decisions:
    """What a policy does in one session of recommendations of each of ``N`` users.

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
                return _Choice(policy.action_distribution_given_interests(omega), len(omega), omega.device)
            return _Choice(policy.action_distribution(histories), len(omega), omega.device)

        self._first = choose(histories)
        self._rest = None
        if forget:
            nothing = torch.zeros_like(histories.lengths)
            self._rest = choose(Histories(histories.items, nothing, nothing, histories.num_items))

    def draw(self, uniform: Tensor) -> Tensor:
        """Actions of the users' next ``M`` recommendations, ``N x M`` int64, from uniforms of that shape."""
        if self._rest is None:
            return self._first.draw(uniform)
        return torch.cat([self._first.draw(uniform[:, :1]), self._rest.draw(uniform[:, 1:])], dim=1)

    def propensity(self, actions: Tensor) -> Tensor:
        """The policy's probability of the ``N x M`` actions drawn, float64."""
        if self._rest is None:
            return self._first.propensity(actions)
        return torch.cat([self._first.propensity(actions[:, :1]), self._rest.propensity(actions[:, 1:])], dim=1)
