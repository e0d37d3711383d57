"""A distribution draws as often as is decided."""

import pytest
import torch

from tests.simulation.decided import PROBS, Fixed, Opaque, decisions


def test_a_distribution_draws_as_often_as_is_decided():
    """Its own way of drawing is asked for as many actions as each session has, and no more."""

    class Counting(Opaque):
        def sample(self, sample_shape=()):
            raise AssertionError("more than what decides")

        def sample_each(self, counts):
            asked.append(counts.tolist())
            return torch.arange(int(counts.sum())) % 6

    asked: list = []
    session = torch.tensor([0, 0, 0, 1, 2])
    choices = decisions(Fixed(PROBS[1], Counting))
    action, propensity = choices.draw(session, torch.tensor([0, 1, 2, 0, 0]), torch.rand(5).double(), propensities=True)
    assert asked == [[3, 1, 1]]
    assert action.tolist() == [0, 1, 2, 3, 4]
    assert propensity.tolist() == pytest.approx([0.5, 0, 0, 0, 0])
