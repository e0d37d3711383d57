"""What pairing buys in an A/B test: the standard error of a paired difference against that of independent users.

    OMP_NUM_THREADS=1 python benchmarks/ab_test_pairing.py [--environments 200 201 202] [--test-users 4000]

Greedy BLOB and BLO fitted to 1,000 users of session popularity, random items, the oracle; 50 pairs of products swapped.
Runs, settings, versions and machine go to the folder ``benchmarks/results/ab_test_pairing``; a call goes on from what
is there.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from blob_pyro import BLO, BLOB
from blob_pyro.experiments.saved_runs import SavedRuns
from blob_pyro.policies import Greedy, SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym, ab_test

RESULTS = Path(__file__).parent / "results" / "ab_test_pairing"
PAIRS = [("BLOB", "BLO"), ("BLOB", "random"), ("BLO", "random"), ("oracle", "BLOB")]


@dataclass(frozen=True)
class Pairing:
    """The experiment, by its settings; a run is one environment."""

    num_items: int = 100
    num_flips: int = 50
    interests: int = 10
    num_users: int = 1000
    num_organic_users: int = 20_000
    test_users: int = 4000

    def run(self, seed):
        """Fit, test, and compare standard errors: a row per kind of clicks and difference."""
        environment = RecoGym(self.num_items, self.num_flips, seed, embedding_dim=self.interests)
        logging = SessionPopularity(self.num_items, epsilon=0.3)
        log = environment.simulate(logging, self.num_users, self.num_organic_users, propensities=False)
        blo = BLO(self.num_items)
        blo.fit(log, progress=False, device="cpu")
        blob = BLOB(blo)
        blob.fit(log, progress=False, device="cpu")
        policies = {"random": Uniform(self.num_items), "BLO": Greedy(blo), "BLOB": Greedy(blob)}
        policies["oracle"] = environment.oracle()
        rows = []
        for clicks in ("expected", "sampled"):
            result = ab_test(environment, policies, num_users=self.test_users, clicks=clicks)
            for one, other in PAIRS:
                errors = [result.click_rate(name).standard_error for name in (one, other)]
                unpaired = (errors[0] ** 2 + errors[1] ** 2) ** 0.5
                paired = result.difference(one, other).standard_error
                rows.append({"clicks": clicks, "difference": f"{one} - {other}", "ratio": paired / unpaired})
        return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=int, nargs="+", default=[200, 201, 202])
    parser.add_argument("--test-users", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Pairing(test_users=arguments.test_users)
    saved = SavedRuns(experiment, arguments.output, ("seed",), digits=4)
    for (seed,) in saved.complete([(seed,) for seed in arguments.environments], experiment.run):
        print(f"environment {seed}: done", flush=True)
    rows = saved.frame[saved.frame["seed"].isin(arguments.environments)]
    print(rows.groupby(["clicks", "difference"], sort=False)["ratio"].agg(["mean", "min", "max"]).round(2).to_string())


if __name__ == "__main__":
    main()
