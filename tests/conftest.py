"""What every test shares: one thread per worker, fixed seeds, a clean Pyro, a small fitted model."""

import gc

import pyro
import pytest
import torch

from blob_pyro import BLO, BLOB, EventLog
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym

# What is imported and collected stays: to look through it for garbage, again and again, took a quarter of the time.
gc.disable()

# It registers parts when it is imported, which is for `test_extension` to do and undo.
collect_ignore = ["mine.py"]


def pytest_configure(config):
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish():
    gc.freeze()  # each full collection would look through all that was imported
    gc.enable()


@pytest.fixture(autouse=True)
def _fresh_pyro():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield


@pytest.fixture
def short_starts(monkeypatch):
    """Guides that do not say where they start take a few steps towards the prior: for what is of no matter where."""
    monkeypatch.setattr("blob_pyro.infer.start._STEPS", 60)


@pytest.fixture(scope="session")
def log() -> EventLog:
    """12 items, 60 users with recommendations, 300 without."""
    environment = RecoGym(num_items=12, num_flips=4, seed=3)
    return environment.simulate(SessionPopularity(12, epsilon=0.3), num_users=60, num_organic_users=300)


@pytest.fixture(scope="session")
def blo(log) -> BLO:
    """Fitted to ``log``; do not change it."""
    blo = BLO(log.num_items, embedding_dim=3)
    blo.fit(log, num_epochs=30, batch_size=64, progress=False, device="cpu")
    return blo


@pytest.fixture(scope="session")
def blob(blo, log) -> BLOB:
    """Fitted to ``log``; do not change it."""
    blob = BLOB(blo)
    blob.fit(log, num_epochs=30, batch_size=512, progress=False, device="cpu")
    return blob
