"""Popularity counts views."""

import torch

from blob_pyro.policies.baselines import Popularity


def test_popularity_counts_a_log_and_its_sessions_alike(sessions, log):
    assert Popularity(sessions).scores([[0], []]).tolist() == [[3, 4, 5, 4, 2]] * 2
    assert torch.equal(Popularity(log).scores([[]]), Popularity(log.sessions).scores([[]]))
