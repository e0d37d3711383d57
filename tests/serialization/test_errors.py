"""The one error of saved models names path, file and field."""

import pickle
from pathlib import Path

import pytest

from blob_pyro.serialization import SavedModelError


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ({}, "saved model: is damaged"),
        ({"path": Path("m")}, "path: m: is damaged"),
        ({"path": "m", "file": "config.json"}, "path: m, config.json: is damaged"),
        ({"path": "m", "file": "config.json", "field": "fits[0]"}, "path: m, config.json, fits[0]: is damaged"),
    ],
)
def test_what_it_says(where, text):
    error = SavedModelError("is damaged", **where)
    assert str(error) == text
    assert isinstance(error, ValueError)


def test_it_survives_another_process():
    error = pickle.loads(pickle.dumps(SavedModelError("is damaged", path="m", file="f", field="x")))
    assert (error.problem, error.path, error.file, error.field) == ("is damaged", "m", "f", "x")
