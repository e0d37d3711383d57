"""What is played again: by hand, and wrong propensities that averages do not find."""

import dataclasses

import numpy as np
import pytest

from blob_pyro import EventLog
from blob_pyro.ope import audit
from blob_pyro.ope.auditing.repetition import repetition
from blob_pyro.policies import SessionPopularity
from tests.ope.auditing.facts_by_hand import facts as facts_of
from tests.ope.auditing.logs import heavy


def test_repetition_by_hand():
    facts = heavy(3, rows=400, contexts=8, concentration=0.7)
    edges, off, spread = [0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0], np.zeros(7), np.zeros(7)
    seen = {}
    for history, action, p in zip(facts.history, facts.action, facts.propensity):
        known = seen.setdefault(history, {})
        for k in range(7):
            mine = {a for a, q in known.items() if edges[k] <= q < edges[k + 1]}
            chance = sum(known[a] for a in mine)
            off[k] += (action in mine) - chance
            spread[k] += chance * (1 - chance)
        known.setdefault(action, p)
    spread += 1e-12  # where nothing of that size has been seen
    bound = 2 * np.exp(-(off**2) / 2 / (spread + abs(off) / 3))
    found = repetition(facts)
    assert found.p_value == pytest.approx(min(1, int((spread > 1e-9).sum()) * bound.min()))
    assert found.statistic == pytest.approx(off[(off**2 / (spread + abs(off) / 3)).argmax()])
    wrong = dataclasses.replace(facts, propensity=facts.propensity / 2)
    assert repetition(wrong).flagged
    assert "what had been played came again" in repetition(wrong).says
    large = dataclasses.replace(facts, propensity=(1.5 * facts.propensity).clip(max=0.9))
    assert "sum to 1." in repetition(large).says
    assert repetition(large).row is not None


def slates(swapped):
    """Two slots after forty histories; what is logged may be the other slot's."""
    policy = SessionPopularity(6, epsilon=0.2)
    histories = [[n % 6, n % 5, n % 4] for n in range(40) for _ in range(40)]
    users = np.arange(len(histories))
    frame = policy.decide(histories, user=users, time=10 * users + 5, slots=2, seed=0)
    if swapped:
        probs = policy.slate_distribution(histories, 2).probs.numpy()
        frame["propensity"] = probs[users.repeat(2), frame["action"], np.tile([1, 0], len(users))]
    views = {
        "user": users.repeat(3),
        "time": 10 * users.repeat(3) + np.tile([0, 1, 2], len(users)),
        "item": np.ravel(histories),
    }
    return EventLog.from_tables(views=views, impressions=frame.assign(reward=0), num_items=6)


def test_swapped_slots_are_found():
    assert audit(slates(False)).flagged == ()
    report = audit(slates(True))
    assert report["repetition"].flagged
    assert ", in slot " in report["repetition"].says


def test_nothing_to_compare():
    assert "nothing to compare" in repetition(facts_of([0.5, 0.4, 0.1], history=np.arange(3))).says
    changed = facts_of([0.5, 0.4], history=np.zeros(2, dtype=int), action=np.zeros(2, dtype=int))
    assert "several propensities" in repetition(changed).says
