"""How often the intervals of A/B tests cover the truth: with few users, expected and sampled clicks.

    OMP_NUM_THREADS=1 python benchmarks/ab_test_coverage.py [--users 50 200 2000] [--tests 2000] [--population 40000]

A population of simulated users meets every policy once; its totals are the truth. A test is a draw of users from it,
with replacement. Beside the intervals of `blob_pyro.simulation.ABTest` stand those of the delta method with normal
quantiles, which they replaced. ``below`` and ``above`` are how often the truth lies beyond the lower and upper end.
The table goes to ``benchmarks/results/ab_test_coverage.csv``.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from scipy import stats

from blob_pyro.policies import Greedy, SessionPopularity, Uniform
from blob_pyro.policies.baselines import Popularity
from blob_pyro.simulation import ABTest, RecoGym, ab_test

RESULTS = Path(__file__).parent / "results" / "ab_test_coverage.csv"
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
    size = arguments.num_items
    environment = RecoGym(num_items=size, num_flips=size // 2, seed=arguments.seed, embedding_dim=10)
    policies = {
        "random": Uniform(size),
        "session popularity": SessionPopularity(size, epsilon=0.3),
        "popularity": Greedy(Popularity(environment.simulate(num_users=0, num_organic_users=20_000))),
        "oracle": environment.oracle(),
    }
    rows = []
    for clicks in ("expected", "sampled"):
        population = ab_test(environment, policies, num_users=arguments.population, clicks=clicks)
        for num_users in arguments.users:
            found = covers(population, num_users, arguments.tests, arguments.seed)
            rows += [{"clicks": clicks, "users": num_users, **row} for row in found]
            print(f"{clicks} clicks, {num_users} users: done", flush=True)
    table = pd.DataFrame(rows)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(arguments.output, index=False)
    print(f"\nnominal 95 %; {arguments.tests} tests, so a coverage of .95 is known to +-.005")
    print(table.pivot_table(index=["clicks", "users", "method"], values="coverage", aggfunc=["min", "mean", "max"])
          .droplevel(1, axis=1).round(3).to_string())  # fmt: skip


if __name__ == "__main__":
    main()
