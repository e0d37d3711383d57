"""One session of each of many users, vectorised over users and events.

Every random number but those inside a policy is looked up by (user, event, slot), where ``event`` is the index in
the user's life of the event that it belongs to, over views and impressions alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.simulation.decisions import Decisions
from blob_pyro.simulation.environment import Environment
from blob_pyro.simulation.random import CounterRandom

__all__ = ["Impressions", "Views", "arrive", "browse", "drift", "patience", "recommend", "session_length"]

# What the numbers of one event are used for; the interests take embedding_dim slots from _INTERESTS on.
_LEAVE, _SWITCH, _VIEW, _CLICK, _ACTION, _INTERESTS = 0, 1, 2, 3, 4, 5
# Views scored together: as many as keep the scores of the whole catalogue in cache. No result depends on it.
_SCORES_AT_ONCE = 1 << 17


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
        click_probability: float64, the environment's probability that it would; None where it was not asked for.
        propensity: float64, the policy's probability of ``action``; None where it was not asked for.
        interests: ``... x embedding_dim`` float64, the user's at the decision; None where they were not asked for. With
            them `blob_pyro.simulation.environment.Environment.click_probability` knows every item's click probability.
    """

    user: Tensor
    time: Tensor
    action: Tensor
    click: Tensor
    click_probability: Tensor | None
    propensity: Tensor | None
    interests: Tensor | None = None


def drift(environment: Environment, random: CounterRandom, user: Tensor, event: Tensor | int) -> Tensor:
    """Draw the step that interests take after ``event``: ``... x embedding_dim``, before any scale is applied."""
    slots = torch.arange(_INTERESTS, _INTERESTS + environment.embedding_dim, device=user.device)
    event = event if isinstance(event, int) else event.unsqueeze(-1)
    return random.normal(random.page(user.unsqueeze(-1), event), slots)


def arrive(environment: Environment, random: CounterRandom, user: Tensor) -> Tensor:
    """Draw interests at the first view, ``N x embedding_dim``: a step from zero, taken after an event -1."""
    return environment.sigma_omega_initial * drift(environment, random, user, -1)


def patience(environment: Environment, random: CounterRandom, user: Tensor, event: Tensor | int) -> Tensor:
    """Draw the event after which the chain will say stop, ``N`` int64, given that it has not up to and with ``event``.

    RecoGym leaves with the same probability in both states, so this can be known in advance, and does not depend
    on the policy until a click keeps the user from leaving.
    """
    page = random.page(user, event)
    return event + _geometric(random.uniform(page, _LEAVE), environment.prob_leave_organic)


def session_length(
    environment: Environment, random: CounterRandom, user: Tensor, start: Tensor, leaves: Tensor, switch: float
) -> tuple[Tensor, Tensor]:
    """Draw the number of events for which the chain stays in its state.

    Args:
        environment: whose users they are.
        random: the table of random numbers.
        user: ``N`` user numbers.
        start: ``N``, the session's first event.
        leaves: ``N``, the event after which the chain will say stop: see `patience`.
        switch: probability of changing to the other state after an event.

    Returns:
        The number of events, ``N`` int64, at least 1; and whether it is a change of state, not a stop, that ends it.
    """
    leave = environment.prob_leave_organic
    given_stays = switch / (1 - leave) if leave < 1 else 0.0
    length = _geometric(random.uniform(random.page(user, start), _SWITCH), given_stays)
    left = leaves - start + 1
    return torch.minimum(length, left), length < left


def _geometric(uniform: Tensor, probability: float) -> Tensor:
    """Trials up to and with the first success, by inversion; beyond any lifetime if there is none."""
    if probability == 0:
        return torch.full_like(uniform, 2**62, dtype=torch.int64)
    return (uniform.log() / math.log1p(-min(probability, 1 - 2**-53))).ceil_().clamp_(1, 2**62).to(torch.int64)


def browse(
    environment: Environment, random: CounterRandom, user: Tensor, start: Tensor, length: Tensor, omega: Tensor
) -> tuple[Views, Tensor]:
    """Simulate one organic session per user.

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
    position = torch.arange(len(session), device=user.device).sub_((last + 1 - length).index_select(0, session))
    viewer, time = user.index_select(0, session), start.index_select(0, session).add_(position)
    later = position.nonzero().squeeze(1)  # the step before the first view was the caller's to take, or not
    who, before = viewer.index_select(0, later), time.index_select(0, later).sub_(1)
    step = omega.new_zeros(len(session), environment.embedding_dim)
    step.index_copy_(0, later, drift(environment, random, who, before).mul_(environment.sigma_omega))
    path = omega.index_select(0, session).add_(_cumulative_sum(step, position))
    draw = random.uniform(random.page(user, time, session), _VIEW)
    rows = max(1, _SCORES_AT_ONCE // environment.num_items)
    item = [_view(environment, *part) for part in zip(path.split(rows), draw.split(rows))]
    omega = path.index_select(0, last)
    if environment.change_omega_for_bandits:
        omega = omega + environment.sigma_omega * drift(environment, random, user, time[last])
    return Views(viewer, time, torch.cat(item)), omega


def _view(environment: Environment, omega: Tensor, uniform: Tensor) -> Tensor:
    """One item from ``environment.organic_probability(omega)`` each, by inversion; ``V`` int64."""
    scores = torch.addmm(environment.mu_organic, omega, environment.gamma.T)
    # Relative to the most likely item, single precision is enough; the sum over items is not left to it.
    weight = scores.sub_(scores.amax(-1, keepdim=True)).to(torch.float32).exp_()
    cumulative = weight.cumsum(-1, dtype=torch.float64)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=environment.num_items - 1)


def recommend(
    environment: Environment,
    random: CounterRandom,
    decisions: Decisions,
    user: Tensor,
    start: Tensor,
    length: Tensor,
    omega: Tensor,
    propensities: bool = True,
    click_probabilities: bool = True,
    interests: bool = False,
) -> tuple[Impressions, Tensor, Tensor, Tensor]:
    """Simulate one session of recommendations per user.

    Args:
        environment: whose items are clicked.
        random: the table of random numbers.
        decisions: what the policy does with these ``N`` users.
        user: ``N`` user numbers.
        start: ``N``, the session's first event.
        length: ``N``, after how many recommendations the chain ends the session, unless a click does before.
        omega: ``N x embedding_dim``, interests at the first recommendation.
        propensities: whether to compute them.
        click_probabilities: whether to compute them for all impressions; few are needed to tell who clicks.
        interests: whether to return them with the impressions.

    Returns:
        The impressions; for each user their number and whether the last was clicked; the interests after them.
    """
    session = torch.repeat_interleave(length)
    number, first = torch.arange(len(session), device=user.device), length.cumsum(0) - length
    position = number - first.index_select(0, session)
    event = number.add_((start - first).index_select(0, session))
    page = random.page(user, event, session)
    action, propensity = decisions.draw(session, position, lambda: random.uniform(page, _ACTION), propensities)
    if environment.change_omega_for_bandits:
        steps = environment.sigma_omega * drift(environment, random, user.index_select(0, session), event)
        after = omega.index_select(0, session) + _cumulative_sum(steps, position)

    def now(part: Tensor) -> Tensor:
        if environment.change_omega_for_bandits:
            return after[part] - steps[part]
        return omega.index_select(0, session.index_select(0, part))

    def click_probability(part: Tensor) -> Tensor:
        return environment.click_probability(now(part), action.index_select(0, part))

    # Thinning: no click probability reaches the ceiling, so what lies above it needs no closer look.
    draw = random.uniform(page, _CLICK)
    maybe = (draw < environment.click_ceiling).nonzero().squeeze(1)
    clicks = maybe[draw.index_select(0, maybe) < click_probability(maybe)]
    clicked = torch.zeros_like(length, dtype=torch.bool).index_fill_(0, session[clicks], True)
    shown = length.scatter_reduce(0, session[clicks], position[clicks] + 1, "amin")
    seen = (position < shown.index_select(0, session)).nonzero().squeeze(1)
    last = shown.cumsum(0).sub_(1)  # place of each session's last impression among those seen
    impressions = Impressions(
        user=user.repeat_interleave(shown, output_size=len(seen)),
        time=event.index_select(0, seen),
        action=action.index_select(0, seen),
        click=torch.zeros_like(seen, dtype=torch.bool).index_copy_(0, last, clicked),
        click_probability=click_probability(seen) if click_probabilities else None,
        propensity=propensity.index_select(0, seen) if propensity is not None else None,
        interests=now(seen) if interests else None,
    )
    return impressions, shown, clicked, after[seen[last]] if environment.change_omega_for_bandits else omega


def _cumulative_sum(steps: Tensor, position: Tensor) -> Tensor:
    """Running sums along flat sessions, ``V x D``, restarted wherever ``position`` is 0.

    By doubling (Hillis and Steele 1986): the order of additions depends on the position in the session alone, so
    the last bit of a user's interests does not depend on who else is in the batch.
    """
    reach, steps = 1, steps.clone()
    inside = (position >= reach).nonzero().squeeze(1)
    while len(inside):
        steps.index_add_(0, inside, steps.index_select(0, inside - reach))
        reach *= 2
        inside = inside[position.index_select(0, inside) >= reach]
    return steps
