"""Old names work and warn, once, at the line that typed them."""

import types

import pytest

from blob_pyro.ops.renamed import renamed_argument, renamed_attribute, renamed_in_module


class Box:
    """Has an attribute that was renamed, and takes it by both names."""

    @renamed_argument("content", "value")
    def __init__(self, value=0, *, size=1):
        self.value, self.size = value, size

    content = renamed_attribute("content", "value")


OLD = {
    "argument": (lambda: Box(content=3, size=2).value, "Box: 'content' is now called 'value'"),
    "attribute": (lambda: Box(3).content, "Box: 'content' is now called 'value'"),
    "module": (lambda: renamed_in_module("m", {"old": "new"}, {"new": 3})("old"), "m: 'old' is now called 'new'"),
}


@pytest.mark.parametrize(("read", "message"), OLD.values(), ids=OLD.keys())
def test_the_old_name_gives_the_same_and_warns_where_it_was_typed(read, message):
    with pytest.warns(DeprecationWarning, match=message) as caught:
        assert read() == 3
    assert [warning.filename for warning in caught] == [__file__]


def test_new_names_say_nothing():
    assert Box(value=3, size=2).value == Box(3).value == 3


def test_both_names_are_one_too_many():
    with pytest.raises(TypeError, match="'content' is the old name of 'value'; give one of them"):
        Box(content=1, value=2)


def test_other_names_are_as_unknown_as_before():
    module = types.ModuleType("m")
    module.__getattr__ = renamed_in_module("m", {"old": "new"}, {"new": 3})
    with pytest.raises(AttributeError, match="module 'm' has no attribute 'other'"):
        module.other  # noqa: B018
