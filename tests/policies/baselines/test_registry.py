"""Baselines by name, and one of one's own."""

import pytest
import torch

from blob_pyro.policies import Greedy, Policy, Scorer, Uniform
from blob_pyro.policies.baselines import (
    BASELINES,
    register_baseline,
)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "ALS"])
def test_every_baseline_by_name(name, log):
    policy = BASELINES[name](log, 5)
    assert isinstance(policy, Policy)
    probs = policy.action_distribution(log.contexts[:6]).probs
    assert probs.shape == (6, 12)
    assert torch.allclose(probs.double().sum(-1), torch.ones(6).double())
    again = BASELINES[name](log, 5).action_distribution(log.contexts[:6]).probs
    assert torch.equal(probs, again)
    if isinstance(policy, Greedy):
        assert isinstance(policy.model, Scorer)


def test_one_s_own_baseline(log):
    register_baseline("mine", lambda log, seed: Uniform(log.items))
    try:
        assert BASELINES["mine"](log, 0).num_items == 12
    finally:
        del BASELINES["mine"]
