"""Write the saved models of this version that later versions must be able to load.

    python -m tests.serialization.make_fixtures

Run it once per schema version, and commit ``fixtures/schema_<version>``: folders of older versions stay as they were
written. `test_fixtures.py` loads all of them and compares their scores with those in ``scores.json``.
"""

import json
import sys
from pathlib import Path

import pyro.distributions as dist

from blob_pyro import BLO, BLOB, BanditPriors, EventLog, JointBLOB, Learned
from blob_pyro.infer import Bouchard
from blob_pyro.models import OrganicPriors
from blob_pyro.models.priors.heavy_tails import StudentTKappa
from blob_pyro.models.priors.items import ItemCategories, KappaOnPopularity
from blob_pyro.serialization.folder import SCHEMA_VERSION

FIXTURES = Path(__file__).parent / "fixtures"
HISTORIES = [["tea", "jar"], ["mug"], []]


def make_log() -> EventLog:
    """Five items, six users."""
    items = ["cup", "jar", "mug", "pan", "tea"]
    return EventLog.from_tables(
        views={
            "user": [u for u in range(6) for _ in range(4)],
            "time": [t for _ in range(6) for t in range(4)],
            "item": [items[(u * u + t * (1 + u % 3)) % 5] for u in range(6) for t in range(4)],
        },
        impressions={
            "user": [u for u in range(6) for _ in range(5)],
            "time": [1 + t for _ in range(6) for t in range(5)],
            "action": [items[(2 * u + t) % 5] for u in range(6) for t in range(5)],
            "reward": [int((u * 7 + t * 3) % 4 == 0) for u in range(6) for t in range(5)],
        },
        items=items,
    )


def make_models(log: EventLog) -> dict[str, BLO | BLOB]:
    """One of each kind of saved model, small."""
    settings = {"seed": 1, "progress": False, "device": "cpu"}
    organic = BLO(5, embedding_dim=2, bound=Bouchard(num_negatives=3), priors=OrganicPriors(dist.Normal(0.0, 1.0)))
    organic.fit(log, num_epochs=20, **settings)
    priors = BanditPriors(
        w_a=dist.StudentT(4.0, -1.0, 1.5),
        kappa=StudentTKappa(5.0),
        kappa_scale=Learned(0.2),
        terms=(KappaOnPopularity(0.4), ItemCategories((0, 1, 0, 1, 1), 0.3, Learned(0.2))),
    )
    normal, laplace = BLOB(organic, "normal", priors), BLOB(organic, "laplace", BanditPriors(kappa_scale=0.3))
    for blob in (normal, laplace):
        blob.fit(log, num_epochs=20, **settings)
    updated = BLOB(organic, "full", BanditPriors(kappa_scale=0.3))
    updated.fit(log, num_epochs=5, **settings)
    updated.update(log, num_epochs=5, seed=1, progress=False)
    plain = BLOB(organic)
    plain.fit(log, num_epochs=5, **settings)
    joint = JointBLOB(plain)
    joint.fit_jointly(log, num_epochs=2, **settings)
    return {"blo": organic, "blob_normal": normal, "blob_laplace": laplace, "blob_updated": updated, "joint": joint}


def main(folder: Path) -> None:
    """Write them all."""
    scores = {}
    for name, model in make_models(make_log()).items():
        model.save(folder / name)
        scores[name] = model.scores(HISTORIES).tolist()
    (folder / "scores.json").write_text(json.dumps(scores) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / f"schema_{SCHEMA_VERSION}")
