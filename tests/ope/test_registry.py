"""Estimators by name: one's own beside ours, no name twice, and a baseline where one is needed."""

import pytest

from blob_pyro.ope import ips, register_estimator
from blob_pyro.ope.registry import ESTIMATORS


def clipped(rows):
    return ips(rows.reward, rows.target, rows.logging, groups=rows.groups, clip=2)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="name: an estimator 'ips' is known already"):
        register_estimator("ips", clipped)
    register_estimator("mine", clipped)
    try:
        assert ESTIMATORS["mine"] is clipped
        with pytest.raises(ValueError, match="'mine' is known already"):
            register_estimator("mine", clipped)
    finally:
        del ESTIMATORS["mine"]


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name.startswith("delta_")])
def test_differences_need_a_baseline(name):
    class Rows:
        reward = target = logging = groups = folds = baseline = None

    with pytest.raises(ValueError, match="baseline: is needed by this estimator"):
        ESTIMATORS[name](Rows())
