"""The process for users against RecoGym's own code: event by event, and in distribution.

*Event by event*: RecoGym's environment runs on a stand-in for its random generator that answers every question from
our table of numbers. Both must then tell the same stories, to the last event.

*In distribution*: RecoGym runs as it is, and per-user statistics of many users are compared by two-sample tests.
Planted errors show that these tests can fail."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from blob_pyro.data import EventLog
from blob_pyro.policies import Policy
from blob_pyro.simulation import RecoGym, RecoGymReference, agent_from_policy, session_popularity_agent
from blob_pyro.simulation import environment as environment_module
from blob_pyro.simulation import sessions as slots
from blob_pyro.simulation.random import CounterRandom
from tests.simulation.stories import (
    NUM_ORGANIC,
    NUM_USERS,
    POLICIES,
    discrepancies,
    lives,
    recogym_lives,
    recogym_log,
    simulated,
)


class ScriptedRandom:
    """Stands in for the generator of a `RecoEnv1`; answers from the table that the vectorised simulator reads."""

    def __init__(self, environment, settings, table):
        self.environment, self.settings, self.table = environment, settings, table
        self.state, self.session_start, self.leaves = None, 0, None

    def number(self, event, slot, kind="uniform"):
        user = torch.tensor([self.environment.current_user_id])
        return getattr(self.table, kind)(self.table.page(user, event), slot)

    def geometric(self, event, slot, probability):
        return max(1, math.ceil(math.log(float(self.number(event, slot))) / math.log1p(-probability)))

    def normal(self, loc, scale, size):
        now = self.environment.current_time
        arriving = isinstance(loc, int)
        if arriving:
            self.state, self.leaves = None, -1 + self.geometric(-1, slots._LEAVE, self.settings.prob_leave_organic)
        event = -1 if arriving else now - 1  # the clock has moved on before interests do
        step = self.number(event, slots._INTERESTS + torch.arange(size[0]), "normal").numpy()[:, None]
        return loc + scale * step

    def choice(self, values, p):
        now = self.environment.current_time
        if isinstance(values, list):  # a click?
            return int(self.number(now, slots._CLICK) < p[1])
        if values != 3:  # which item is viewed?
            return int(np.searchsorted(np.cumsum(p) / np.sum(p), float(self.number(now, slots._VIEW)), side="right"))
        return self.next_state(now, p)

    def next_state(self, now, p):
        state, other = self.environment.state, 1 - self.environment.state
        if state != self.state:
            self.state, self.session_start = state, now
        if now == self.leaves:
            self.leaves = now + self.geometric(now, slots._LEAVE, p[2])
            return 2
        switch = self.geometric(self.session_start, slots._SWITCH, p[other] / (1 - p[2]))
        return other if now == self.session_start + switch - 1 else state


class NextItem(Policy):
    """Recommends the item after the last one viewed: sensitive to every view, and without chance."""

    def action_distribution(self, histories):
        following = [(views[-1] + 1) % self.num_items if views else 0 for views in histories.to_sequences()]
        return dist.Categorical(probs=torch.eye(self.num_items)[following])


def rows(log):
    views = zip(log.view_user.tolist(), log.view_time.tolist(), log.view_item.tolist())
    impressions = zip(log.user.tolist(), log.time.tolist(), log.action.tolist(), log.reward.tolist())
    return sorted(views), sorted(impressions)


@pytest.mark.parametrize("history", ["all", "since_last_action"])
@pytest.mark.parametrize(
    "settings",
    [
        {"num_items": 30, "num_flips": 15, "sigma_omega": 1.0},
        {"num_items": 7, "num_flips": 2, "change_omega_for_bandits": True, "sigma_omega": 0.5},
        {"num_items": 12, "embedding_dim": 3, "prob_leave_organic": 0.05, "prob_bandit_to_organic": 0.2},
    ],
    ids=["strong drift", "drift during recommendations", "short lives"],
)
def test_same_numbers_same_stories(settings, history, monkeypatch):
    vectorised = RecoGym(**settings, seed=5)
    reference = RecoGymReference(**settings, seed=5).make()
    reference.rng = ScriptedRandom(reference, vectorised, CounterRandom(5, 1, 3))
    # A click rate near 20 % rather than 1 %, so that clicks matter, also on the last event of a life.
    monkeypatch.setattr(environment_module, "click_response", lambda x: torch.sigmoid(x / 3 - 1))
    monkeypatch.setattr("recogym.envs.reco_env_v1.ff", lambda x: 1 / (1 + np.exp(1 - x / 3)))
    users, organic = (40, 10) if "prob_leave_organic" in settings else (12, 4)
    ours = vectorised.simulate(NextItem(settings["num_items"]), users, organic, seed=3, history=history)
    assert ours.reward.sum() > 100

    agent = agent_from_policy(NextItem(settings["num_items"]), history=history)
    theirs = EventLog.from_recogym(reference.generate_logs(users, agent, organic), settings["num_items"])
    assert rows(ours) == rows(theirs)


@pytest.mark.parametrize("policy", POLICIES)
def test_same_distribution(policy):
    log = RecoGym(embedding_dim=10).simulate(POLICIES[policy], 10 * NUM_USERS, 5 * NUM_ORGANIC)
    assert discrepancies(lives(log, 5 * NUM_ORGANIC), recogym_lives(policy)) == []


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_the_file_is_what_recogym_says(policy):
    found, kept = lives(recogym_log(policy), NUM_ORGANIC), recogym_lives(policy)
    assert found.pop("click rate") == pytest.approx(kept["click rate"])
    assert found == {name: value for name, value in kept.items() if name != "click rate"}


@pytest.mark.parametrize(
    ("planted", "symptom"),
    [
        ({"prob_leave_organic": 0.013}, "impressions"),
        ({"prob_organic_to_bandit": 0.3}, "first session"),
        ({"prob_bandit_to_organic": 0.07}, "mean organic sessions"),
        ({"embedding_dim": 5}, "view 0"),
        ({"seed": 1}, "view 0"),
    ],
    ids=str,
)
def test_planted_settings_are_caught(planted, symptom):
    assert symptom in discrepancies(simulated(**planted), recogym_lives("random"))


@pytest.mark.slow
@pytest.mark.parametrize("flips", [0, 50])
@pytest.mark.parametrize("change", [False, True])
def test_same_distribution_at_length(flips, change):
    settings = {"num_flips": flips, "seed": 2, "change_omega_for_bandits": change, "sigma_omega": 0.3}
    agent = session_popularity_agent(100, seed=2)
    frame = RecoGymReference(**settings).simulate(agent, 4_000, NUM_ORGANIC)
    ours = RecoGym(**settings).simulate(POLICIES["session popularity"], 20_000, 5 * NUM_ORGANIC)
    theirs = lives(EventLog.from_recogym(frame, 100), NUM_ORGANIC)
    assert discrepancies(lives(ours, 5 * NUM_ORGANIC), theirs) == []
