"""Replay, by hand and against SNIPS."""

import numpy as np
import pytest

from blob_pyro.ope import replay, snips


def test_replay_by_hand(sample):
    rng = np.random.default_rng(0)
    target = rng.integers(4, size=len(sample.action))
    agrees = target == sample.action
    estimate = replay(sample.reward, sample.action, target, groups=sample.user)
    r = sample.reward[agrees]
    assert estimate.value == pytest.approx(r.mean(), rel=1e-13)
    assert estimate.effective_sample_size == agrees.sum()
    rows = replay(sample.reward, sample.action, target)
    assert rows.standard_error == pytest.approx(r.std() / len(r) ** 0.5, rel=1e-12)
    assert f"{agrees.sum()} rows agree" in repr(rows)
    assert "uniformly random logs only" in repr(rows)


def test_replay_is_snips_for_uniform_logs():
    reward, action, target = [1, 0, 1, 0, 1], [0, 1, 2, 0, 1], [0, 1, 1, 2, 1]
    weights = (np.array(action) == target).astype(float)
    logging = np.full(5, 1 / 3)
    found = replay(reward, action, target, logging_propensity=logging)
    assert found.value == pytest.approx(snips(reward, weights, logging).value)
    assert "uniformly random" not in repr(found)


def test_replay_refuses_what_is_not_uniform():
    with pytest.raises(ValueError, match=r"logging_propensity, row 1: replay is right for equal .*snips"):
        replay([1, 0], [0, 1], [0, 1], logging_propensity=[0.5, 0.6])
    with pytest.raises(ValueError, match="target_action: agrees with no logged action"):
        replay([1, 0], [0, 1], [1, 0])
    with pytest.raises(ValueError, match=r"target_action, row 0: a whole number is expected, got 0\.5"):
        replay([1, 0], [0, 1], [0.5, 0])
