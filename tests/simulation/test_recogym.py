"""The vectorised environment: its logs, its common random numbers, what policies get to see, what is refused."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from pyro.distributions import Categorical

from blob_pyro.policies import Policy, SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym
from blob_pyro.simulation import recogym as recogym_module
from blob_pyro.simulation.random import CounterRandom
from blob_pyro.simulation.sessions import Impressions

ENVIRONMENT = RecoGym(num_items=40, num_flips=20, seed=1)


class Thompson(Policy):
    """A stochastic policy whose distribution is not a plain Categorical."""

    def action_distribution(self, histories):
        class Draws(Categorical):
            pass

        return Draws(logits=histories.counts())


class Recorder(Policy):
    """Uniform, and remembers what it was shown."""

    def __init__(self, num_items):
        super().__init__(num_items)
        self.seen = []

    def action_distribution(self, histories):
        self.seen += [tuple(views) for views in histories.to_sequences()]
        return Uniform(self.num_items).action_distribution(histories)


def columns(log):
    return [log.view_user, log.view_time, log.view_item, log.user, log.time, log.action, log.reward, log.propensity]


def assert_same(log, other):
    for ours, theirs in zip(columns(log), columns(other)):
        assert torch.equal(ours, theirs)


def first_sessions(log):
    """Views that nothing but views preceded, as (user id, time, item)."""
    rank = torch.arange(log.num_views) - torch.searchsorted(log.view_user, log.view_user)
    first = rank == log.view_time
    ids = [log.users.ids[u] for u in log.view_user[first].tolist()]
    return list(zip(ids, log.view_time[first].tolist(), log.view_item[first].tolist()))


def test_events_are_numbered_through_each_life():
    log = ENVIRONMENT.simulate(SessionPopularity(40), num_users=300, num_organic_users=100)
    user, time = torch.cat([log.view_user, log.user]), torch.cat([log.view_time, log.time])
    lives = torch.bincount(user)
    assert torch.equal(
        (user * 10_000 + time).sort().values, torch.cat([u * 10_000 + torch.arange(n) for u, n in enumerate(lives)])
    )
    assert log.num_users == 400
    assert set(log.user.tolist()).isdisjoint(range(100)), "organic-only users see no recommendations"


def test_a_click_is_followed_by_a_view_and_no_life_ends_with_one():
    log = ENVIRONMENT.simulate(SessionPopularity(40), num_users=2_000)
    views = set(zip(log.view_user.tolist(), log.view_time.tolist()))
    clicks = log.reward == 1
    after = set(zip(log.user[clicks].tolist(), (log.time[clicks] + 1).tolist()))
    assert len(after) > 2_000
    assert after <= views


@pytest.mark.parametrize(
    "policy", [Uniform(40), SessionPopularity(40, 0.2), Thompson(40)], ids=lambda p: type(p).__name__
)
def test_propensities_are_the_policys(policy):
    log = ENVIRONMENT.simulate(policy, num_users=100)
    expected = policy.action_distribution(log.contexts).probs[log.context, log.action]
    assert torch.allclose(log.propensity, expected.double(), rtol=1e-5, atol=0)
    assert ENVIRONMENT.simulate(policy, num_users=20, propensities=False).propensity is None


def test_policies_meet_the_same_users():
    logs = [ENVIRONMENT.simulate(p, 500, 50) for p in (Uniform(40), SessionPopularity(40), ENVIRONMENT.oracle())]
    sessions = [first_sessions(log) for log in logs]
    assert sessions[0] == sessions[1] == sessions[2]
    # The end of a life is common as well, until a click makes the difference.
    ends = [torch.zeros(550, dtype=torch.int64).scatter_reduce(0, log.user, log.time, "amax") for log in logs]
    untouched = torch.ones(550, dtype=torch.bool)
    for log in logs:
        untouched[log.user[log.reward == 1]] = False
    same = (ends[0] == ends[1]) & (ends[0] == ends[2])
    assert int(untouched.sum()) > 100
    assert float(same[untouched].double().mean()) > 0.9


def test_flips_and_response_leave_the_views_of_first_sessions_alone():
    flipped, plain = (RecoGym(num_items=40, num_flips=n, seed=1).simulate(num_users=200) for n in (20, 0))
    assert first_sessions(flipped) == first_sessions(plain)


@pytest.mark.parametrize("policy", [Uniform(40), SessionPopularity(40)], ids=lambda p: type(p).__name__)
def test_nothing_depends_on_batches(policy, monkeypatch):
    log = ENVIRONMENT.simulate(policy, num_users=150, num_organic_users=30)
    assert_same(log, ENVIRONMENT.simulate(policy, num_users=150, num_organic_users=30, batch_size=7))
    monkeypatch.setattr(recogym_module, "_USERS_AT_ONCE", 11)
    assert_same(log, ENVIRONMENT.simulate(policy, num_users=150, num_organic_users=30))


def test_more_users_are_more_of_the_same():
    few, many = (ENVIRONMENT.simulate(num_users=n) for n in (50, 80))
    kept = many.user < 50
    assert torch.equal(few.action, many.action[kept])
    assert torch.equal(few.view_item, many.view_item[many.view_user < 50])


@pytest.mark.parametrize("policy", [Uniform(40), Thompson(40)], ids=lambda p: type(p).__name__)
def test_seeds(policy):
    torch.manual_seed(1)
    log = ENVIRONMENT.simulate(policy, num_users=50, seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert_same(log, ENVIRONMENT.simulate(policy, num_users=50, seed=3))
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are not disturbed"
    assert first_sessions(log) != first_sessions(ENVIRONMENT.simulate(policy, num_users=50, seed=4))


def test_policies_see_all_views_before_the_decision():
    recorder = Recorder(40)
    log = ENVIRONMENT.simulate(recorder, num_users=100)
    assert sorted(recorder.seen) == sorted(map(tuple, log.contexts.to_sequences()))


def test_since_last_action_hides_all_but_the_latest_session():
    recorder = Recorder(40)
    log = ENVIRONMENT.simulate(recorder, num_users=100, history="since_last_action")
    views_before = {}
    for user, views in zip(
        log.user[torch.diff(log.context, prepend=torch.tensor([-1])) > 0].tolist(), log.contexts.to_sequences()
    ):
        views_before.setdefault(user, [[]]).append(views)
    latest = [tuple(b[len(a) :]) for lives in views_before.values() for a, b in pairwise(lives)]
    assert sorted(views for views in recorder.seen if views) == sorted(latest)
    assert recorder.seen.count(()) == len(latest)


def test_clicks_follow_the_click_probability():
    events = ENVIRONMENT.lives(ENVIRONMENT.oracle(), range(3_000), CounterRandom(0), click_probabilities=True)
    impressions = [event for event in events if isinstance(event, Impressions)]
    p = torch.cat([event.click_probability for event in impressions])
    click = torch.cat([event.click for event in impressions]).double()
    for part in p.argsort().chunk(4):  # calibrated in every quarter, not only on average
        error = (p[part] * (1 - p[part])).sum().sqrt() / len(part)
        assert abs(float(click[part].mean() - p[part].mean())) < 4 * float(error)


def test_interests_are_those_that_clicks_come_from():
    for environment in (ENVIRONMENT, dataclasses.replace(ENVIRONMENT, change_omega_for_bandits=True)):
        events = environment.lives(Uniform(40), range(50), CounterRandom(0), click_probabilities=True, interests=True)
        for event in events:
            if isinstance(event, Impressions):
                of_action = environment.click_probability(event.interests, event.action)
                assert torch.equal(of_action, event.click_probability)
    (_, without, *_) = environment.lives(Uniform(40), range(50), CounterRandom(0))
    assert without.interests is None


def test_probabilities():
    omega = torch.randn(6, 2, 5, dtype=torch.float64)
    every = ENVIRONMENT.click_probability(omega)
    action = torch.randint(40, (6, 2))
    assert torch.allclose(ENVIRONMENT.click_probability(omega, action), every.gather(-1, action[..., None])[..., 0])
    assert torch.allclose(ENVIRONMENT.organic_probability(omega).sum(-1), torch.ones(6, 2).double())


def test_organic_users_alone():
    log = ENVIRONMENT.simulate(num_users=0, num_organic_users=200)
    assert (log.num_users, log.num_impressions) == (200, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_users": -1}, "num_users: must be between 0 and .*, got -1"),
        ({"num_organic_users": -2}, "num_organic_users: must be between 0 and"),
        ({"num_users": 0}, "ask for at least one user"),
        ({"history": "none"}, "history: expected 'all' or 'since_last_action', got 'none'"),
        ({"batch_size": 0}, "batch_size: must be between 1 and"),
        ({"policy": Uniform(41)}, "policy has num_items=41, the environment has 40"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ENVIRONMENT.simulate(**arguments)


def test_progress(capsys):
    ENVIRONMENT.simulate(num_users=10, progress=True)
    assert "10/10" in capsys.readouterr().err
    ENVIRONMENT.simulate(num_users=10)
    assert capsys.readouterr().err == ""


@pytest.mark.cuda
def test_on_a_gpu():
    here = ENVIRONMENT.simulate(SessionPopularity(40), num_users=500, num_organic_users=100)
    there = RecoGym(num_items=40, num_flips=20, seed=1, device="cuda").simulate(SessionPopularity(40), 500, 100)
    for ours, theirs in zip(columns(here), columns(there)):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs)
