"""One session of each of many users, vectorised over users and events.

Every random number but those inside a policy is looked up by (user, event, slot), where ``event`` is the index in
the user's life of the event that it belongs to, over views and impressions alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.simulation.decisions import Decisions, sample_by_inversion
from blob_pyro.simulation.environment import Environment
from blob_pyro.simulation.random import CounterRandom

__all__ = ["Impressions", "Views", "arrive", "browse", "drift", "recommend", "session_length"]

# What the numbers of one event are used for; the interests take embedding_dim slots from _INTERESTS on.
_TRANSITION, _VIEW, _CLICK, _ACTION, _INTERESTS = 0, 1, 2, 3, 4
# Transitions looked up per step of the search for a session's end, and views scored together (as many as keep the
# scores of the whole catalogue in cache). No result depends on either.
_LOOK_AHEAD, _SCORES_AT_ONCE = 16, 1 << 17


@dataclass(frozen=True)
class Views:
    """Organic events, one row each: ``user``, ``time`` (index of the event in the user's life), ``item``; int64."""

    user: Tensor
    time: Tensor
    item: Tensor


@dataclass(frozen=True)
class Impressions:
    """Bandit events, one row each.

    Attributes:
        user, time, action: int64.
        click: bool, what happened.
        click_probability: float64, the environment's probability that it would.
        propensity: float64, the policy's probability of ``action``; None where it was not asked for.
    """

    user: Tensor
    time: Tensor
    action: Tensor
    click: Tensor
    click_probability: Tensor
    propensity: Tensor | None


def drift(environment: Environment, random: CounterRandom, user: Tensor, event: Tensor | int) -> Tensor:
    """The step that interests take after ``event``: ``... x embedding_dim``, before any scale is applied."""
    slots = torch.arange(_INTERESTS, _INTERESTS + environment.embedding_dim, device=user.device)
    event = event if isinstance(event, int) else event.unsqueeze(-1)
    return random.normal(user.unsqueeze(-1), event, slots)


def arrive(environment: Environment, random: CounterRandom, user: Tensor) -> Tensor:
    """Interests at the first view, ``N x embedding_dim``: a step from zero, taken after an event -1."""
    return environment.sigma_omega_initial * drift(environment, random, user, -1)


def session_length(
    random: CounterRandom, user: Tensor, start: Tensor, exit_probability: float
) -> tuple[Tensor, Tensor]:
    """How long the chain stays in its state.

    Args:
        random: the table of random numbers.
        user: ``N`` user numbers.
        start: ``N``, the session's first event.
        exit_probability: of leaving the state after an event, by whatever door.

    Returns:
        The number of events, ``N`` int64, at least 1; and the uniform that ended the session, ``N`` float64,
        below ``exit_probability``: where it lies tells the door.
    """
    length, decisive = torch.empty_like(start), torch.empty(len(user), dtype=torch.float64, device=user.device)
    ahead = torch.arange(_LOOK_AHEAD, device=user.device)
    pending = torch.arange(len(user), device=user.device)
    while len(pending):
        draw = random.uniform(user[pending, None], start[pending, None] + ahead, _TRANSITION)
        leaves, first = (draw < exit_probability).max(dim=1)  # the first of equal maxima
        found, first = pending[leaves], first[leaves]
        length[found] = ahead[0] + first + 1
        decisive[found] = draw[leaves].gather(1, first[:, None]).squeeze(1)
        pending, ahead = pending[~leaves], ahead + _LOOK_AHEAD
    return length, decisive


def browse(
    environment: Environment, random: CounterRandom, user: Tensor, start: Tensor, length: Tensor, omega: Tensor
) -> tuple[Views, Tensor]:
    """One organic session per user.

    Args:
        environment: whose items are viewed.
        random: the table of random numbers.
        user: ``N`` user numbers.
        start: ``N``, the session's first event.
        length: ``N``, how many views.
        omega: ``N x embedding_dim``, interests at the first view.

    Returns:
        The views, session by session, and the interests after the session.
    """
    session = torch.repeat_interleave(length)
    last = length.cumsum(0) - 1
    position = torch.arange(len(session), device=user.device) - (last + 1 - length)[session]
    time = start[session] + position
    step = environment.sigma_omega * drift(environment, random, user[session], time - 1)
    # The step before the first view was the caller's to take, or not.
    path = omega[session] + _cumulative_sum(step.masked_fill_((position == 0)[:, None], 0.0), position)
    draw = random.uniform(user[session], time, _VIEW)[:, None]
    rows = max(1, _SCORES_AT_ONCE // environment.num_items)
    item = [
        sample_by_inversion(environment.organic_probability(interests), uniform).squeeze(1)
        for interests, uniform in zip(path.split(rows), draw.split(rows))
    ]
    omega = path[last]
    if environment.change_omega_for_bandits:
        omega = omega + environment.sigma_omega * drift(environment, random, user, time[last])
    return Views(user[session], time, torch.cat(item)), omega


def recommend(
    environment: Environment,
    random: CounterRandom,
    decisions: Decisions,
    user: Tensor,
    start: Tensor,
    length: Tensor,
    omega: Tensor,
    propensities: bool,
) -> tuple[Impressions, Tensor, Tensor, Tensor]:
    """One session of recommendations per user.

    Args:
        environment: whose items are clicked.
        random: the table of random numbers.
        decisions: what the policy does with these ``N`` users.
        user: ``N`` user numbers.
        start: ``N``, the session's first event.
        length: ``N``, after how many recommendations the chain ends the session, unless a click does before.
        omega: ``N x embedding_dim``, interests at the first recommendation.
        propensities: whether to compute them.

    Returns:
        The impressions; for each user their number and whether the last was clicked; the interests after them.
    """
    position = torch.arange(int(length.max()), device=user.device)
    events = start[:, None] + position
    actions = decisions.draw(random.uniform(user[:, None], events, _ACTION))
    path = omega[:, None, :]
    if environment.change_omega_for_bandits:
        steps = environment.sigma_omega * drift(environment, random, user[:, None], events)
        path = torch.cat([path, path + steps.cumsum(1)], dim=1)
        probability = environment.click_probability(path[:, :-1], actions)
    else:
        probability = environment.click_probability(path, actions)
    click = (random.uniform(user[:, None], events, _CLICK) < probability) & (position < length[:, None])
    clicked, first_click = click.max(dim=1)
    shown = torch.where(clicked, first_click + 1, length)
    if environment.change_omega_for_bandits:
        omega = path[torch.arange(len(user), device=user.device), shown]
    seen = position < shown[:, None]
    impressions = Impressions(
        user=user.repeat_interleave(shown),
        time=events[seen],
        action=actions[seen],
        click=click[seen],
        click_probability=probability[seen],
        propensity=decisions.propensity(actions)[seen] if propensities else None,
    )
    return impressions, shown, clicked, omega


def _cumulative_sum(steps: Tensor, position: Tensor) -> Tensor:
    """Running sums along flat sessions, ``V x D``, restarted wherever ``position`` is 0.

    By doubling (Hillis and Steele 1986): the order of additions depends on the position in the session alone, so
    the last bit of a user's interests does not depend on who else is in the batch.
    """
    reach = 1
    longest = int(position.max()) if len(position) else 0
    while reach <= longest:
        steps = steps.clone().index_add_(0, inside := (position >= reach).nonzero().squeeze(1), steps[inside - reach])
        reach *= 2
    return steps
