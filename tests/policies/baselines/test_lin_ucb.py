"""Upper confidence bounds, written out."""

import pytest
import torch

from blob_pyro import EventLog
from blob_pyro.policies.baselines import LinUCB


def one(histories):
    return torch.ones(len(histories), 1)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_scores_by_hand(alpha):
    impressions = {"user": [1, 2, 3, 4], "time": [0] * 4, "action": [0, 0, 1, 0], "reward": [1, 0, 0, 0]}
    model = LinUCB(3, one, 1, alpha=alpha, l2=2.0)
    model.update(EventLog.from_tables(impressions=impressions, num_items=3))
    expected = [1 / 5 + alpha * 5**-0.5, alpha * 3**-0.5, alpha * 2**-0.5]
    assert model.scores([[]]).tolist() == [pytest.approx(expected)]


def test_alpha_is_not_negative():
    with pytest.raises(ValueError, match="alpha: must lie between 0 and inf, got -1"):
        LinUCB(3, one, 1, alpha=-1)
