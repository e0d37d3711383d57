"""Slates of two classes, by hand; every slate that there is stands in test_base."""

import pytest
import torch

from blob_pyro.policies.slates import TwoClassSlates
from tests.policies.slates.every_slate import every


def test_two_slots_by_hand():
    """Weights 2 and 1 of the first two items; the third is explored."""
    found = every(TwoClassSlates(torch.tensor([[2.0, 1, 0]]), torch.ones(1, 3, dtype=torch.bool), 2, 0.1), 1)[0]
    assert found[:, 0].tolist() == pytest.approx([0.6, 0.3, 0.1], rel=1e-14)
    # After the third, nothing is left to explore; after one of the others, its fellow or the third.
    assert found[:, 1].tolist() == pytest.approx([0.1 * 2 / 3 + 0.3 * 0.9, 0.1 / 3 + 0.6 * 0.9, 0.9 * 0.1], rel=1e-14)


def test_an_empty_class_leaves_no_choice():
    nothing_weighted = TwoClassSlates(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), 1, 0.1)
    assert every(nothing_weighted, 1)[0, :, 0].tolist() == [0.5, 0.5]
