"""A production Thompson sampler's own log: exact rank propensities against 200,000 draws counted by the platform."""

import csv
from pathlib import Path

import torch

from blob_pyro.propensity import RankBeta

DATA = Path(__file__).parent.parent / "data" / "open_bandit"
NUM_DRAWS = 200_000
UNIFORM = 1 / 46


def _read(name):
    with (DATA / name).open() as file:
        return list(csv.DictReader(file))


def test_first_seven_minutes_of_the_women_campaign():
    prior = _read("women_prior.csv")
    alpha, beta = (torch.tensor([float(row[key]) for row in prior], dtype=torch.float64) for key in ("alpha", "beta"))
    exact = RankBeta(alpha, beta, num_ranks=3).probs
    logged = [
        r for r in _read("women_bts_first_seven_minutes.csv") if abs(float(r["propensity_score"]) - UNIFORM) > 1e-6
    ]
    assert len(logged) == 13

    def deviation(row):
        probability = exact[int(row["item_id"]), int(row["position"]) - 1].item()
        return (float(row["propensity_score"]) - probability) / (probability * (1 - probability) / NUM_DRAWS) ** 0.5

    deviations = {row["timestamp"]: deviation(row) for row in logged}
    outside = [timestamp for timestamp, z in deviations.items() if abs(z) > 3]
    assert outside == ["2019-11-24 00:04:10.333945+00:00"]
    # The platform counts once and repeats the number: only distinct values are independent.
    distinct = {(r["item_id"], r["position"], r["propensity_score"]): deviations[r["timestamp"]] for r in logged}
    chi_squared = sum(z**2 for z in distinct.values() if abs(z) < 3)
    assert len(distinct) == 10
    assert chi_squared < 16.9  # the 95 % point for the nine that agree
