"""Averages that must be what they are, by hand."""

import numpy as np
import pytest

from blob_pyro.ope import audit
from tests.ope.auditing.logs import ITEMS, probabilities


def test_frequencies_against_whole_distributions(healthy):
    wrong = audit(healthy, logging_probs=probabilities(healthy, 0.5))
    assert wrong["action frequencies"].flagged
    shifted = probabilities(healthy).roll(1, -1)
    assert audit(healthy, logging_probs=shifted)["action frequencies"].flagged
    assert "pass logging_probs" in audit(healthy)["action frequencies"].says


def test_frequencies_by_hand(healthy):
    probs = probabilities(healthy).double().numpy()
    played = np.bincount(healthy.action.numpy(), minlength=ITEMS)
    z = (played - probs.sum(0)) / np.sqrt((probs * (1 - probs)).sum(0))
    assert audit(healthy, logging_probs=probs)["action frequencies"].statistic == pytest.approx(z[abs(z).argmax()])


def test_mean_of_inverse_by_hand(healthy):
    inverse = 1 / healthy.propensity.numpy()
    rest = np.delete(inverse, inverse.argmax())
    for name, values in (("mean of 1/p", inverse), ("mean of 1/p without its largest row", rest)):
        z = (values.mean() - ITEMS) / (values.std(ddof=1) / len(values) ** 0.5)
        assert audit(healthy)[name].statistic == pytest.approx(z, rel=1e-9)
