"""Models that older versions have saved load in this one: see `make_fixtures.py`."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from blob_pyro import BLO, BLOB, JointBLOB
from blob_pyro.serialization.manifest import SCHEMA_VERSION

FIXTURES = Path(__file__).parent / "fixtures"
HISTORIES = [["tea", "jar"], ["mug"], []]
CASES = [
    (schema, name) for schema in sorted(FIXTURES.iterdir()) for name in json.loads((schema / "scores.json").read_text())
]


def test_this_version_s_models_are_among_them():
    assert (FIXTURES / f"schema_{SCHEMA_VERSION}").is_dir()


@pytest.mark.parametrize(("schema", "name"), CASES, ids=[f"{schema.name}-{name}" for schema, name in CASES])
def test_it_loads_and_says_what_it_said(schema, name):
    cls = BLO if name == "blo" else JointBLOB if name == "joint" and schema.name != "schema_2" else BLOB
    old = schema.name == "schema_2"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = cls.load(schema / name, device="cpu")
    assert ["schema version 2, which has no checksums" in str(w.message) for w in caught] == [True] * old
    assert all(w.filename == __file__ for w in caught)
    expected = torch.tensor(json.loads((schema / "scores.json").read_text())[name])
    torch.testing.assert_close(model.scores(HISTORIES), expected, rtol=1e-4, atol=1e-5)
    assert model.fitted
