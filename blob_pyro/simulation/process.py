"""RecoGym 0.1.3.0's process by which users live, a round of sessions at a time.

A user browses (*organic* state), is shown recommendations (*bandit* state), and leaves (*stop*). Each event is
followed by one draw of the next state::

    after a view             stop with prob_leave_organic, bandit with prob_organic_to_bandit, else organic
    after a recommendation   stop with prob_leave_organic, organic with prob_bandit_to_organic, else bandit
    after a click            organic, whatever the draw said, even stop

    omega            ~ Normal(0, sigma_omega_initial)               interests on arrival, embedding_dim numbers
    omega            ~ Normal(omega, sigma_omega)                   whenever the *draw* said organic
    view | omega     ~ Categorical(softmax(gamma omega + mu_organic))
    click | omega, a ~ Bernoulli(click_response(beta_a omega + mu_bandit_a))

Interests stand still during recommendations, so click probabilities are those of the last context switch
(unless ``change_omega_for_bandits``). A policy sees views and nothing else, so neither does it change its mind
during a session of recommendations: all actions of the session are drawn at once, and the first click cuts it
short. The loop therefore runs once per round of sessions, not once per event.

The chain of states is not stepped through either: the next *stop* and the next change of state are geometric
variables, drawn at once. Both states stop with the same probability, so a user's patience is drawn once for life,
and is the same under every policy until a click overrules it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from blob_pyro.data import Histories
from blob_pyro.simulation.decisions import AnyPolicy, Decisions
from blob_pyro.simulation.environment import Environment
from blob_pyro.simulation.random import CounterRandom
from blob_pyro.simulation.sessions import (
    Impressions,
    Views,
    arrive,
    browse,
    drift,
    patience,
    recommend,
    session_length,
)

__all__ = ["HistoryMode", "simulate_users"]

HistoryMode = Literal["all", "since_last_action"]


@torch.no_grad()
def simulate_users(
    environment: Environment,
    policy: AnyPolicy | None,
    users: Tensor,
    random: CounterRandom,
    *,
    history: HistoryMode = "all",
    batch_size: int = 1024,
    propensities: bool = False,
    click_probabilities: bool = False,
    interests: bool = False,
) -> Iterator[Views | Impressions]:
    """Simulate the lives of ``users``: views of all first sessions, then the impressions that follow, and so on.

    Args:
        environment: whose users they are.
        policy: who recommends. None ends every life with its first organic session.
        users: distinct user numbers, int64; they address the random numbers.
        random: the table of random numbers.
        history: what the policy sees: all the user's views before the decision, or those since the last one.
        batch_size: sessions for which the policy decides in one call.
        propensities: whether to compute them.
        click_probabilities: whether to compute them for all impressions.
        interests: whether impressions come with them.
    """
    row = torch.arange(len(users), device=users.device)  # into the memory
    memory = _Memory(len(users), environment.num_items, users.device)
    time, omega = torch.zeros_like(users), arrive(environment, random, users)
    leaves = patience(environment, random, users, -1)
    while len(users):
        viewed, stays = session_length(environment, random, users, time, leaves, environment.prob_organic_to_bandit)
        views, omega = browse(environment, random, users, time, viewed, omega)
        memory.append(row, viewed, views.item)
        yield views
        if policy is None:
            return
        time = time + viewed
        stays = stays.nonzero().squeeze(1)
        users, time, omega, leaves, row, viewed = (
            x.index_select(0, stays) for x in (users, time, omega, leaves, row, viewed)
        )
        if not len(users):  # a policy need not know what to do with nobody
            return

        length, returns = session_length(environment, random, users, time, leaves, environment.prob_bandit_to_organic)
        shown, clicked = torch.empty_like(length), torch.empty_like(length, dtype=torch.bool)
        # Sessions of like length together, so that little is drawn beyond a session's end.
        for batch in length.argsort(descending=True, stable=True).split(batch_size):
            who, when, long, where = (x.index_select(0, batch) for x in (users, time, length, omega))
            recent = viewed[batch] if history == "since_last_action" else None
            decisions = Decisions(policy, memory.recall(row[batch], recent), where, recent is not None)
            impressions, *after = recommend(
                environment, random, decisions, who, when, long, where, propensities, click_probabilities, interests
            )
            for whole, part in zip((shown, clicked, omega), after):
                whole.index_copy_(0, batch, part)
            yield impressions
        time = time + shown
        # The chain's own return moves the interests; a click brings the user back as they were.
        returns = returns & (shown == length)
        if not environment.change_omega_for_bandits:
            step = drift(environment, random, users[returns], time[returns] - 1)
            omega[returns] += environment.sigma_omega * step
        kept = clicked & (time - 1 == leaves)  # by a click on the last recommendation before leaving
        leaves[kept] = patience(environment, random, users[kept], leaves[kept])
        stays = (returns | clicked).nonzero().squeeze(1)
        users, time, omega, leaves, row = (x.index_select(0, stays) for x in (users, time, omega, leaves, row))
        row = memory.keep(row)


class _Memory:
    """The views of each user so far: a rectangle that widens as needed, read through ragged `Histories`.

    Few users live long: once half of them have left, it forgets these.
    """

    def __init__(self, num_users: int, num_items: int, device: torch.device) -> None:
        self.num_items = num_items
        self.items = torch.zeros(num_users, 32, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(num_users, dtype=torch.int64, device=device)

    def keep(self, row: Tensor) -> Tensor:
        """Forget all rows but these, once they are less than half of all; returns where they are then."""
        if 2 * len(row) > len(self.items):
            return row
        self.items, self.lengths = self.items.index_select(0, row), self.lengths.index_select(0, row)
        return torch.arange(len(row), device=row.device)

    def append(self, row: Tensor, count: Tensor, items: Tensor) -> None:
        """Add ``count[i]`` views to ``row[i]``, from the flat ``items``."""
        start = self.lengths.index_select(0, row)
        self.lengths.index_copy_(0, row, start + count)
        if (longest := int(self.lengths.max())) > (width := self.items.shape[1]):
            wider = self.items.new_zeros(len(self.items), 2 ** (longest - 1).bit_length())
            wider[:, :width] = self.items
            self.items = wider
        # From places in the flat ``items`` to places in the flat rectangle, the same shift for all views of a row.
        shift = row * self.items.shape[1] + start - (count.cumsum(0) - count)
        place = torch.arange(len(items), device=items.device)
        self.items.view(-1).index_copy_(0, place.add_(shift.repeat_interleave(count, output_size=len(items))), items)

    def recall(self, row: Tensor, recent: Tensor | None = None) -> Histories:
        """The histories of these rows: everything, or the ``recent[i]`` latest views."""
        known = self.lengths.index_select(0, row)
        lengths = known if recent is None else recent
        starts = row * self.items.shape[1] + known - lengths
        return Histories(self.items.view(-1), starts, lengths, self.num_items)
