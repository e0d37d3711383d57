"""Thompson sampling of ridge regressions: normal draws whose moments are written out."""

import pytest
import torch
from scipy import stats

from blob_pyro import EventLog
from blob_pyro.policies.baselines import LinTS


def one(histories):
    return torch.ones(len(histories), 1)


@pytest.fixture
def log():
    impressions = {"user": [1, 2, 3, 4], "time": [0] * 4, "action": [0, 0, 1, 0], "reward": [1, 0, 0, 0]}
    return EventLog.from_tables(impressions=impressions, num_items=2)


def test_propensities_are_those_of_two_normals(log):
    policy = LinTS(2, one, 1, noise=0.5, l2=2.0)
    policy.update(log)
    assert policy.scores([[]]).tolist() == [pytest.approx([1 / 5, 0.0])]
    difference = stats.norm(1 / 5, 0.5 * (1 / 5 + 1 / 3) ** 0.5)
    assert policy.action_distribution([[]]).probs.tolist() == [pytest.approx([difference.sf(0), difference.cdf(0)])]


def test_noise_is_positive():
    with pytest.raises(ValueError, match="noise: must be positive and finite, got 0"):
        LinTS(2, one, 1, noise=0)
