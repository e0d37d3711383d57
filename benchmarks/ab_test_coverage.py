"""How often the intervals of A/B tests cover the truth: with few users, expected and sampled clicks.

    OMP_NUM_THREADS=1 python benchmarks/ab_test_coverage.py [--users 50 200 2000] [--tests 2000] [--population 40000]

A population of simulated users meets every policy once; its totals are the truth. A test is a draw of users from it,
with replacement. Beside the intervals of `blob_pyro.simulation.ABTest` stand those of the delta method with normal
quantiles, which they replaced. ``below`` and ``above`` are how often the truth lies beyond the lower and upper end.
Runs, settings, versions and machine go to the folder ``benchmarks/results/ab_test_coverage``; a call goes on from what
is there.
"""

import argparse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from scipy import stats

from blob_pyro.experiments.saved_runs import SavedRuns
from blob_pyro.policies import Greedy, SessionPopularity, Uniform
from blob_pyro.policies.baselines import Popularity
from blob_pyro.simulation import ABTest, RecoGym, ab_test

RESULTS = Path(__file__).parent / "results" / "ab_test_coverage"
DIFFERENCES = [("session popularity", "random"), ("oracle", "random"), ("oracle", "session popularity")]


def delta_method(test, *signed):
    """Value, lower and upper end of a rate, or of a difference of two."""
    value, influence = 0.0, 0.0
    for sign, name in zip((1, -1), signed):
        clicks, impressions = test.clicks[name], test.impressions[name]
        rate = clicks.sum() / impressions.sum()
        value, influence = value + sign * rate, influence + sign * (clicks - rate * impressions) / impressions.mean()
    reach = stats.norm.ppf(0.975) * influence.std() / len(influence) ** 0.5
    return value, value - reach, value + reach


def covers(population, num_users, num_tests, seed):
    """One row per rate or difference and method."""
    generator = torch.Generator().manual_seed(seed)
    wanted = [(name,) for name in population.policies] + DIFFERENCES
    truth = {names: delta_method(population, *names)[0] for names in wanted}
    counts = {(names, method): [0, 0] for names in wanted for method in ("jackknife, t", "delta method, normal")}
    for _ in range(num_tests):
        who = torch.randint(len(population.clicks["random"]), (num_users,), generator=generator)
        test = ABTest(
            {name: total[who] for name, total in population.impressions.items()},
            {name: total[who] for name, total in population.clicks.items()},
            population.plays,
            "random",
        )
        for names in wanted:
            ours = test.click_rate(*names) if len(names) == 1 else test.difference(*names)
            for method, (lower, upper) in (
                ("jackknife, t", (ours.lower, ours.upper)),
                ("delta method, normal", delta_method(test, *names)[1:]),
            ):
                counts[names, method][0] += int(truth[names] < lower)
                counts[names, method][1] += int(truth[names] > upper)
    return [
        {
            "of": " - ".join(names),
            "method": method,
            "coverage": 1 - (below + above) / num_tests,
            "below": below / num_tests,
            "above": above / num_tests,
        }
        for (names, method), (below, above) in counts.items()
    ]


@dataclass(frozen=True)
class Coverage:
    """The experiment, by its settings; a run is one kind of clicks and one number of users."""

    num_items: int = 100
    num_tests: int = 2000
    population: int = 40_000
    seed: int = 200

    def run(self, clicks, users):
        """Tests of so many users from the population: a row per rate or difference and method."""
        return pd.DataFrame(covers(_population(self, clicks), users, self.num_tests, self.seed))


@lru_cache(maxsize=1)
def _population(settings, clicks):
    size = settings.num_items
    environment = RecoGym(num_items=size, num_flips=size // 2, seed=settings.seed, embedding_dim=10)
    policies = {
        "random": Uniform(size),
        "session popularity": SessionPopularity(size, epsilon=0.3),
        "popularity": Greedy(Popularity(environment.simulate(num_users=0, num_organic_users=20_000))),
        "oracle": environment.oracle(),
    }
    return ab_test(environment, policies, num_users=settings.population, clicks=clicks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[20, 50, 200, 2000])
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--population", type=int, default=40_000)
    parser.add_argument("--num-items", type=int, default=100)
    parser.add_argument("--seed", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Coverage(arguments.num_items, arguments.tests, arguments.population, arguments.seed)
    saved = SavedRuns(experiment, arguments.output, ("clicks", "users"), digits=4)
    asked = [(clicks, users) for clicks in ("expected", "sampled") for users in arguments.users]
    for clicks, users in saved.complete(asked, experiment.run):
        print(f"{clicks} clicks, {users} users: done", flush=True)
    table = saved.frame[saved.frame["users"].isin(arguments.users)]
    print(f"\nnominal 95 %; {arguments.tests} tests, so a coverage of .95 has a standard error of "
          f"{(0.95 * 0.05 / arguments.tests) ** 0.5:.3f}")  # fmt: skip
    print(table.pivot_table(index=["clicks", "users", "method"], values="coverage", aggfunc=["min", "mean", "max"])
          .droplevel(1, axis=1).round(3).to_string())  # fmt: skip


if __name__ == "__main__":
    main()
