"""Plackett-Luce's slates, by hand."""

import pytest
import torch

from blob_pyro.policies.slates import PlackettLuceSlates
from tests.policies.slates.every_slate import every


def test_two_slots_by_hand():
    slates = PlackettLuceSlates(torch.tensor([[3.0, 2, 1]]), 2)
    found = every(slates, 1)[0]
    assert found[:, 0].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    second = [1 / 3 * 3 / 4 + 1 / 6 * 3 / 5, 1 / 2 * 2 / 3 + 1 / 6 * 2 / 5, 1 / 2 * 1 / 3 + 1 / 3 * 1 / 4]
    assert found[:, 1].tolist() == pytest.approx(second)


def test_repeated_contexts_are_like_their_kinds():
    slates = PlackettLuceSlates(torch.tensor([[3.0, 2, 1], [1, 1, 0]]), 2)
    torch.testing.assert_close(every(slates.repeated(torch.tensor([1, 0, 1])), 3), every(slates, 2)[[1, 0, 1]])


def test_too_few_weights_are_refused():
    with pytest.raises(ValueError, match="the others have probability 0; ask for fewer slots"):
        PlackettLuceSlates(torch.tensor([[1.0, 0, 0]]), 2)
