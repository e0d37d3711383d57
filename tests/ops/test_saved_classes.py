"""The registry of classes that can be saved: names are taken once, and fields are known or given."""

from dataclasses import dataclass, field

import pytest

from blob_pyro.ops.saved_classes import SAVED_CLASSES, is_same, register, saved_name


@pytest.fixture(autouse=True)
def _left_as_it_was():
    before = dict(SAVED_CLASSES)
    yield
    SAVED_CLASSES.clear()
    SAVED_CLASSES.update(before)


@dataclass
class Holiday:
    """Has a field that its constructor takes, and one that it does not."""

    scale: float = 1.0
    found: float = field(default=0.0, init=False)


def test_fields_of_a_dataclass_are_those_of_its_constructor():
    assert register(Holiday) is Holiday
    assert SAVED_CLASSES["Holiday"].fields == ("scale",)
    assert saved_name(Holiday) == "Holiday"
    register(Holiday, name="Day off")
    assert SAVED_CLASSES["Day off"].make is Holiday


def test_a_class_that_is_not_registered_has_no_name():
    assert saved_name(dict) is None


def test_another_class_of_the_name_is_refused():
    register(Holiday)
    other = type("Holiday", (), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match=r"register: the name 'Holiday' is that of .*test_saved_classes\.Holiday"):
        register(other)


def test_a_cell_that_is_run_again_is_the_same_class():
    again = type("Holiday", (), {"__module__": Holiday.__module__, "__qualname__": Holiday.__qualname__})
    assert is_same(Holiday, again)
    assert not is_same(Holiday, type("Holiday", (), {"__module__": "elsewhere"}))
    assert not is_same(lambda: 1, lambda: 2)


def test_fields_that_nobody_knows_are_asked_for():
    class Plain:
        def __init__(self, a):
            self.a = a

    with pytest.raises(ValueError, match="fields"):
        register(Plain)
    assert register(Plain, fields=("a",)) is Plain
