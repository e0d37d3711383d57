"""What the log shows of the target: known from whole distributions only."""

import numpy as np
import pytest

from blob_pyro.ope import MissingSupportWarning, ips, snips


def test_support_is_known_from_probabilities_only(finite):
    r, a = np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1])
    logging = np.array([[0.5, 0.5, 0.0], [0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    target = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0], [0.4, 0.4, 0.2]])
    of = np.arange(3), a
    unknown = ips(r, target[of], logging[of])
    assert unknown.support is None
    assert "support unknown: pass target_probs and logging_probs" in repr(unknown)
    with pytest.warns(MissingSupportWarning, match=r"30.000% of the target's mass is on actions that the log never"):
        known = ips(r, target[of], logging[of], target_probs=target, logging_probs=logging)
    assert known.support == pytest.approx(0.3)
    assert "30.00% of the target's mass" in repr(known)
    full = ips(r, target[of], logging[of], target_probs=np.full((3, 3), 1 / 3), logging_probs=np.full((3, 3), 1 / 3))
    assert full.support == 0


def test_a_target_that_plays_nothing_of_the_log():
    with pytest.warns(MissingSupportWarning, match="every weight is 0"):
        assert ips([1, 1], [0, 0], [0.5, 0.5]).value == 0
    with pytest.raises(ValueError, match="target_propensity: is 0 for every logged action"):
        snips([1, 1], [0, 0], [0.5, 0.5])
