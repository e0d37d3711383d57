"""Guides by name: taken once, classes or functions, and the same line run again is the same guide."""

import pytest
import torch

from blob_pyro.guides import NormalGuide, TrainingDefaults
from blob_pyro.guides.registry import GUIDES, guide_name, register_guide, registered_guide, registered_name
from blob_pyro.models import BanditModel


@pytest.fixture(autouse=True)
def _left_as_it_was():
    before = dict(GUIDES)
    yield
    GUIDES.clear()
    GUIDES.update(before)


def mine(model):
    return NormalGuide(model)


def test_a_name_for_a_function():
    assert register_guide("mine", mine, training_defaults=TrainingDefaults(num_steps=7)) is mine
    assert registered_guide("mine").recipe is mine
    assert registered_guide("mine").training_defaults.num_steps == 7
    assert registered_name(mine) == registered_name("mine") == "mine"
    register_guide("mine", mine)  # as a notebook's cell is run again


def test_names_in_messages():
    guide = NormalGuide(BanditModel(torch.randn(5, 2)))
    assert guide_name(guide) == "'normal'"
    assert guide_name(torch.nn.Linear(1, 1)) == "Linear"


BAD = {
    "no string": (lambda: register_guide(mine), TypeError, "name: expected a string"),
    "no identifier": (lambda: register_guide("my guide", mine), ValueError, "name: expected letters, digits and"),
    "taken": (lambda: register_guide("normal", mine), ValueError, "name: a guide 'normal' is known already"),
    "an instance": (lambda: register_guide("x", torch.nn.Linear(1, 1)), TypeError, "an instance belongs to one model"),
    "a number": (lambda: register_guide("x", 3), TypeError, "guide: expected a class, or a function"),
    "other defaults": (lambda: register_guide("x", mine, training_defaults={}), TypeError, "training_defaults: "),
    "unknown": (lambda: registered_guide("x"), ValueError, r"guide: unknown name 'x'; known: .*normal"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
