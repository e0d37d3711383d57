"""Fixtures of this folder."""

import numpy as np
import pytest

from blob_pyro import EventLog
from blob_pyro.data import Histories
from tests.policies.baselines.baseline_data import SESSIONS


@pytest.fixture
def sessions():
    return Histories.from_sequences(SESSIONS, num_items=5)


@pytest.fixture(scope="module")
def clicks():
    """Four items; who has viewed item v clicks on item 3 - v, shown with unequal propensities."""
    rng = np.random.default_rng(0)
    rows, viewed = 6000, rng.integers(0, 4, 6000)
    probs = np.array([0.5, 0.2, 0.2, 0.1])
    action = rng.choice(4, rows, p=probs)
    reward = rng.random(rows) < np.where(action == 3 - viewed, 0.5, 0.1)
    views = {"user": np.repeat(np.arange(rows), 2), "time": np.tile([0, 1], rows), "item": np.repeat(viewed, 2)}
    views["item"][1::2] = np.where(rng.random(rows) < 0.8, viewed, rng.integers(0, 4, rows))
    views["time"][-2:] = [4, 5]  # the last user's come after the impression
    impressions = {"user": np.arange(rows), "time": np.full(rows, 2), "action": action, "reward": reward.astype(int)}
    return EventLog.from_tables(views=views, impressions={**impressions, "propensity": probs[action]}, num_items=4)
