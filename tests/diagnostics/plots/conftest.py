"""Three fitted models for all pictures, and one of 10,000 items that nobody has trained."""

import warnings

import matplotlib
import pytest
import torch
from matplotlib import pyplot

from blob_pyro import BLO, BLOB
from blob_pyro.infer import ConvergenceWarning

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="session")
def fitted(blo, log):
    """By guide: a model, and the trace of its fit."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for guide, options in (("normal", {"num_epochs": 2}), ("laplace", {}), ("low_rank", {"num_epochs": 2})):
            blob = BLOB(blo, guide)
            found[guide] = blob, blob.fit(log, batch_size=2048, progress=False, device="cpu", **options)
    return found


@pytest.fixture(scope="session")
def large() -> BLOB:
    """10,000 items in three dimensions; the guide is where it starts."""
    blo = BLO(10_000, embedding_dim=3)
    with torch.no_grad():
        blo.model.item_embedding.copy_(torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0)))
    blo.fits = [{"call": "fit"}]
    blob = BLOB(blo, "normal")
    blob.fits = [{"call": "fit"}]
    return blob
