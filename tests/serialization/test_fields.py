"""Fields of a saved configuration have their types, or are named."""

import pyro.distributions as dist
import pytest

from blob_pyro.serialization import SavedModelError
from blob_pyro.serialization.fields import Fields

GOOD = {
    "size": 3, "scale": 0.5, "on": True, "mode": "a",
    "prior": {"class": "Normal", "fields": {"loc": 0.0, "scale": 2.0}},
    "fits": [{"epochs": 3, "device": None}], "inside": {"x": 1}, "none": None,
}  # fmt: skip


def fields(**changes):
    return Fields({**GOOD, **changes}, GOOD, "folder")


def test_what_is_there_is_read():
    f = fields()
    assert (f.integer("size"), f.finite("scale"), f.boolean("on"), f.choice("mode", "ab")) == (3, 0.5, True, "a")
    prior = f.part("prior", dist.Normal, {})
    assert (float(prior.loc), float(prior.scale)) == (0.0, 2.0)
    assert f.records("fits") == GOOD["fits"]
    assert f.object("inside", ["x"]).integer("x") == 1
    assert f.integer("none", optional=True) is f.choice("none", "ab", optional=True) is None
    assert f.part("none", dist.Normal, {}, optional=True) is f.raw("none") is None


WRONG = {
    "a boolean for a number": ("size", True, lambda f: f.integer("size"), "an integer of at least 1, got True"),
    "too small": ("size", 0, lambda f: f.integer("size"), "an integer of at least 1, got 0"),
    "negative": ("scale", -1.0, lambda f: f.finite("scale"), "a number that is not negative"),
    "a number for a boolean": ("on", 1, lambda f: f.boolean("on"), "true or false"),
    "another mode": ("mode", "c", lambda f: f.choice("mode", "ab"), "one of a, b"),
    "another class": ("prior", [1], lambda f: f.part("prior", dist.Normal, {}), "a Normal"),
    "a nest": ("fits", [{"a": {}}], lambda f: f.records("fits"), "a list of flat objects"),
    "what does not hold": ("size", 4, lambda f: f.require(f.raw("size") < 4, "size", "less"), "expected less, got 4"),
}


@pytest.mark.parametrize(("name", "value", "read", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(name, value, read, message):
    with pytest.raises(SavedModelError, match=f"path: folder, config.json, {name}.*: .*{message}"):
        read(fields(**{name: value}))


def test_missing_and_unknown_fields():
    with pytest.raises(SavedModelError, match=r"config\.json, a: is missing"):
        Fields({"b": 1}, ["a", "b"], "folder")
    with pytest.raises(SavedModelError, match=r"config\.json, inside\.y: is not known to this version"):
        fields(inside={"x": 1, "y": 2}).object("inside", ["x"])
    with pytest.raises(SavedModelError, match="expected an object, got 3"):
        Fields(3, [], "folder")
