"""Fixtures of this folder."""

from pathlib import Path

import pytest

from blob_pyro import BLO, BLOB
from tests.serialization.make_fixtures import make_log
from tests.serialization.saved_models import SETTINGS, fitted


@pytest.fixture(scope="module")
def organic() -> BLO:
    return fitted()


@pytest.fixture(scope="module")
def bandit(organic) -> BLOB:
    blob = BLOB(organic)
    blob.fit(make_log(), num_epochs=3, **SETTINGS)
    return blob


@pytest.fixture
def saved(bandit, tmp_path) -> Path:
    bandit.save(tmp_path / "model")
    return tmp_path / "model"
