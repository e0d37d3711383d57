"""Models to save, and what they were fitted to."""

from blob_pyro import BLO
from tests.serialization.make_fixtures import make_log

SETTINGS = {"progress": False, "device": "cpu"}


def fitted(seed: int = 0) -> BLO:
    blo = BLO(5, embedding_dim=2)
    blo.fit(make_log(), num_epochs=2, seed=seed, **SETTINGS)
    return blo
