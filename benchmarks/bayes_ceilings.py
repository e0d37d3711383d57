"""What the right prior can reach with the log that agents learn from: rows of tables 3 and 4 that ask for no fit.

    OMP_NUM_THREADS=1 python benchmarks/bayes_ceilings.py [--environments 200 201 202] [--flips 50] [--test-users 1000]

Shares of the way from random items, 0, to the oracle, 1, by `blob_pyro.experiments.bounds_of_learning`. Runs, settings,
versions and machine go to the folder ``benchmarks/results/bayes_ceilings``; a call goes on from what is there.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from blob_pyro.experiments.bounds_of_learning import BayesCeiling, Constant, EstimatedInterests, best_item
from blob_pyro.experiments.click_rates import CEILINGS
from blob_pyro.experiments.saved_runs import SavedRuns
from blob_pyro.policies import SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym, ab_test

RESULTS = Path(__file__).parent / "results" / "bayes_ceilings"


@dataclass(frozen=True)
class Ceilings:
    """The experiment, by its settings; a run is one environment."""

    num_items: int = 100
    num_flips: int = 50
    interests: int = 10
    num_users: int = 1000
    num_organic_users: int = 20_000
    test_users: int = 1000

    def run(self, seed):
        """Learn from a log of session popularity, and play: a row per policy."""
        environment = RecoGym(self.num_items, self.num_flips, seed, embedding_dim=self.interests)
        logging = SessionPopularity(self.num_items, epsilon=0.3)
        log = environment.simulate(logging, self.num_users, self.num_organic_users, propensities=False)
        policies = {"random": Uniform(self.num_items), "logging policy": logging}
        policies["best constant item"] = Constant(self.num_items, best_item(environment))
        policies |= {name: BayesCeiling(environment, log, link) for name, link in CEILINGS.items()}
        policies |= {"oracle, estimated interests": EstimatedInterests(environment), "oracle": environment.oracle()}
        rates = 100 * ab_test(environment, policies, self.test_users, seed=seed).table()["click_rate"]
        share = (rates - rates["random"]) / (rates["oracle"] - rates["random"])
        return pd.DataFrame({"policy": rates.index, "click_rate": rates.to_numpy(), "of_the_way": share.to_numpy()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=int, nargs="+", default=[200, 201, 202])
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--test-users", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Ceilings(num_flips=arguments.flips, test_users=arguments.test_users)
    saved = SavedRuns(experiment, arguments.output, ("seed",), digits=5)
    for (seed,) in saved.complete([(seed,) for seed in arguments.environments], experiment.run):
        print(f"environment {seed}: done", flush=True)
    rows = saved.frame[saved.frame["seed"].isin(arguments.environments)]
    table = rows.groupby("policy")[["click_rate", "of_the_way"]].agg(["mean", "sem", "min", "max"])
    print(table.sort_values(("of_the_way", "mean"), ascending=False).round(3).to_string())


if __name__ == "__main__":
    main()
