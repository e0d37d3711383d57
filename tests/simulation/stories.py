"""Lives of simulated users, and what RecoGym's own code has told of them, in a file: it takes a while.

python -m tests.simulation.stories    # writes recogym_lives.json; `make test-slow` looks whether it still says so
"""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from blob_pyro.data import EventLog
from blob_pyro.policies import SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym, RecoGymReference, session_popularity_agent

NUM_ORGANIC, NUM_USERS = 2_000, 500
FILE = Path(__file__).with_name("recogym_lives.json")


POLICIES = {"random": Uniform(100), "session popularity": SessionPopularity(100, epsilon=0.3)}


def recogym_log(policy):
    agent = session_popularity_agent(100, seed=1) if policy == "session popularity" else None
    frame = RecoGymReference(embedding_dim=10).simulate(agent, NUM_USERS, NUM_ORGANIC, epoch=1)
    return EventLog.from_recogym(frame, 100)


def statistics(log, num_organic):
    """Per-user statistics: of the first session of everybody, of the whole life of those who saw recommendations."""
    numbers = torch.tensor([int(u) for u in log.users.ids])
    bandit = numbers >= num_organic
    view_rank = torch.arange(log.num_views) - torch.searchsorted(log.view_user, log.view_user)
    # Events are numbered through, so a view continues its session as long as its rank is its time.
    first = torch.bincount(log.view_user[view_rank == log.view_time], minlength=log.num_users)
    views = torch.bincount(log.view_user, minlength=log.num_users)
    shown = torch.bincount(log.user, minlength=log.num_users)
    clicks = torch.bincount(log.user, log.reward.double(), minlength=log.num_users)
    # A view that does not follow a view begins a session.
    new = torch.ones(log.num_views, dtype=torch.bool)
    new[1:] = (log.view_user[1:] != log.view_user[:-1]) | (log.view_time[1:] != log.view_time[:-1] + 1)
    begun = torch.bincount(log.view_user[new], minlength=log.num_users)
    return {
        "first session": first.double(),
        "views": views[bandit].double(),
        "organic sessions": begun[bandit].double(),
        "impressions": shown[bandit].double(),
        "clicks": clicks[bandit],
    }


def click_rate(log):
    shown = torch.bincount(log.user, minlength=log.num_users).double()
    clicks = torch.bincount(log.user, log.reward.double(), minlength=log.num_users)
    rate = clicks.sum() / shown.sum()
    return float(rate), float((clicks - rate * shown).std() / shown.mean() / len(shown) ** 0.5)


def back_after_click(log):
    """Share of clicks that the user's next event, a view, follows."""
    views = set(zip(log.view_user.tolist(), log.view_time.tolist()))
    clicks = log.reward == 1
    return np.mean([(u, t + 1) in views for u, t in zip(log.user[clicks].tolist(), log.time[clicks].tolist())])


def view_counts(log, which):
    """How often each item is the first, or the third, view of a user: one view per user, so views are independent."""
    rank = torch.arange(log.num_views) - torch.searchsorted(log.view_user, log.view_user)
    return torch.bincount(log.view_item[rank == which], minlength=log.num_items)


def lives(log, num_organic):
    """All that is compared, in lists and numbers."""
    return {
        "statistics": {name: values.int().tolist() for name, values in statistics(log, num_organic).items()},
        "views": {str(which): view_counts(log, which).tolist() for which in (0, 2)},
        "click rate": list(click_rate(log)),
        "back after click": float(back_after_click(log)),
    }


@cache
def recogym_lives(policy):
    return json.loads(FILE.read_text())[policy]


def discrepancies(ours, theirs):
    """Names of the statistics of two `lives` that differ; each test has a false alarm rate of 1e-3 or less."""
    found = []
    a, b = ours["statistics"], theirs["statistics"]
    found += [name for name in a if stats.ks_2samp(a[name], b[name]).pvalue < 1e-3]
    found += [f"mean {name}" for name in a if stats.ttest_ind(a[name], b[name], equal_var=False).pvalue < 1e-3]
    for which in (0, 2):
        counts = torch.tensor([ours["views"][str(which)], theirs["views"][str(which)]])
        rare = counts.sum(0) < 60  # at least 10 expected in the smaller log
        table = torch.cat([counts[:, ~rare], counts[:, rare].sum(1, keepdim=True)], dim=1)
        if stats.chi2_contingency(table.numpy()).pvalue < 1e-3:
            found.append(f"view {which}")
    (rate, error), (their_rate, their_error) = ours["click rate"], theirs["click rate"]
    if abs(rate - their_rate) > 3.3 * math.hypot(error, their_error):
        found.append("click rate")
    if ours["back after click"] != theirs["back after click"]:
        found.append("back after click")
    return found


def simulated(**settings):
    log = RecoGym(**{"embedding_dim": 10, **settings}).simulate(POLICIES["random"], 10 * NUM_USERS, 5 * NUM_ORGANIC)
    return lives(log, 5 * NUM_ORGANIC)


if __name__ == "__main__":
    told = {policy: lives(recogym_log(policy), NUM_ORGANIC) for policy in POLICIES}
    FILE.write_text(json.dumps(told, separators=(",", ":")).replace('"statistics"', '\n"statistics"') + "\n")
