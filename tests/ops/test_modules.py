"""Copies of modules: what they share stays shared, what is asked to be shared is the same, and names differ."""

import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn

from blob_pyro.ops.modules import own_copies, own_copy, require_finite


class Part(PyroModule):
    """Has a parameter of Pyro's."""

    def __init__(self, name="part"):
        super().__init__(name)
        self.weight = PyroParam(torch.ones(2))


def test_a_copy_does_not_follow():
    module = Part("part_3")
    copied = own_copy(module, "guide")
    with torch.no_grad():
        module.weight_unconstrained = module.weight
        module.weight.add_(1)
    assert copied.weight.tolist() == [1, 1]
    assert copied._pyro_name != module._pyro_name
    assert copied._pyro_name.startswith("part_")


def test_copies_together_share_what_was_shared():
    shared, kept = nn.Linear(2, 2), nn.Linear(2, 2)
    one, other = nn.Sequential(shared, kept), nn.Sequential(shared)
    new_one, new_other = own_copies(one, other, argument="modules", shared=[kept])
    assert new_one[0] is new_other[0] is not shared
    assert new_one[1] is kept


def test_what_cannot_be_copied_is_named():
    module = nn.Linear(1, 1)
    module.handle = open(__file__)  # noqa: SIM115 - files refuse to be copied
    with module.handle, pytest.raises(TypeError, match=r"guide: an instance is copied.*deepcopy fails on this Linear"):
        own_copy(module, "guide")


def test_numbers_that_are_not_finite_are_named():
    module = nn.Linear(2, 1)
    require_finite({"model": module}, "save")
    with torch.no_grad():
        module.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"save: model\.bias is not finite"):
        require_finite({"model": module}, "save")
