"""What pairing buys in an A/B test: the standard error of a paired difference against that of independent users.

    OMP_NUM_THREADS=1 python benchmarks/ab_test_pairing.py [--environments 200 201 202] [--test-users 4000]

Greedy BLOB and BLO fitted to 1,000 users of session popularity, random items, the oracle; 50 pairs of products swapped.
"""

import argparse

import pandas as pd
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.policies import Greedy, SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym, ab_test

PAIRS = [("BLOB", "BLO"), ("BLOB", "random"), ("BLO", "random"), ("oracle", "BLOB")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=int, nargs="+", default=[200, 201, 202])
    parser.add_argument("--test-users", type=int, default=4000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in arguments.environments:
        environment = RecoGym(num_items=100, num_flips=50, seed=seed, embedding_dim=10)
        log = environment.simulate(SessionPopularity(100, epsilon=0.3), 1000, 20_000, propensities=False)
        blo = BLO(100)
        blo.fit(log, progress=False, device="cpu")
        blob = BLOB(blo)
        blob.fit(log, progress=False, device="cpu")
        policies = {"random": Uniform(100), "BLO": Greedy(blo), "BLOB": Greedy(blob), "oracle": environment.oracle()}
        for clicks in ("expected", "sampled"):
            result = ab_test(environment, policies, num_users=arguments.test_users, clicks=clicks)
            for one, other in PAIRS:
                errors = [result.click_rate(name).standard_error for name in (one, other)]
                unpaired = (errors[0] ** 2 + errors[1] ** 2) ** 0.5
                paired = result.difference(one, other).standard_error
                rows.append(
                    {"clicks": clicks, "difference": f"{one} - {other}", "paired / unpaired": paired / unpaired}
                )
        print(f"environment {seed}: done", flush=True)
    table = pd.DataFrame(rows).groupby(["clicks", "difference"], sort=False)["paired / unpaired"]
    print(table.agg(["mean", "min", "max"]).round(2).to_string())


if __name__ == "__main__":
    main()
