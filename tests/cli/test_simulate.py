"""Simulated users as tables: those of Python's environment, and of whatever model recommends."""

import pandas as pd

from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym
from tests.cli.commands import SMALL, done


def test_the_tables_are_the_environments_log(tmp_path):
    done("simulate", *SMALL, "--users", 5, "--organic-users", 6, "--first-user", 100, "--output", tmp_path)
    environment = RecoGym(num_items=8, num_flips=2, seed=3)
    log = environment.simulate(SessionPopularity(8, epsilon=0.3), num_users=5, num_organic_users=6, first_user=100)
    for name, frame in zip(("views", "impressions"), log.to_frames()):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), frame)


def test_a_model_recommends(monday, tmp_path):
    done(
        "simulate", *SMALL, "--users", 20, "--organic-users", 0, "--first-user", 5000, "--model", monday / "model",
        "--policy", "softmax", "--output", tmp_path,
    )  # fmt: skip
    impressions = pd.read_parquet(tmp_path / "impressions.parquet")
    assert impressions["user"].min() >= 5000
    assert impressions["propensity"].nunique() > 3
