"""Click rates of fitted models in the vectorised RecoGym: several environments, several logs of each.

    python benchmarks/quality.py                                  # 6 environments x 3 logs, flips 0 and 50, P = 100
    python benchmarks/quality.py --items 1000 --flips 0 500
    python benchmarks/quality.py --interests 5                    # RecoGym's own default number of latent interests
    python benchmarks/quality.py --environments 100 101 102       # tuning: seeds from 100; reporting: 0 to 5
    python benchmarks/quality.py --agents BLOB "BLOB, paper"      # some of the agents only

Policies see all of the user's views before a decision. Logs: 20,000 organic users, 1,000 users who saw recommendations
of session popularity with epsilon 0.3. Prints one line per log as it comes, then per agent the mean over logs with its
standard error over *environments* (logs of one environment share its catalogue), and the share of what there is to
gain: (rate - random) / (oracle - random).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import pandas as pd
import torch

from blob_pyro import BLO, BLOB, BanditPriors, EventLog
from blob_pyro.models import ItemDeviations, KappaOnPopularity, StudentTKappa
from blob_pyro.policies import Greedy, SessionPopularity, ThompsonSampling, Uniform
from blob_pyro.simulation import RecoGym, ab_test


def fitted(blo: BLO, log: EventLog, **options) -> BLOB:
    blob = BLOB(blo, **options)
    blob.fit(log, seed=0, progress=False, device="cpu")
    return blob


AGENTS: dict[str, Callable] = {
    "BLO": lambda blo, log: Greedy(blo),
    "BLOB": lambda blo, log: Greedy(fitted(blo, log)),
    "BLOB, matrix normal": lambda blo, log: Greedy(fitted(blo, log, guide="matrix_normal")),
    "BLOB, arrowhead normal": lambda blo, log: Greedy(fitted(blo, log, guide="arrowhead_normal")),
    "BLOB, laplace": lambda blo, log: Greedy(fitted(blo, log, guide="laplace")),
    "BLOB, popularity": lambda blo, log: Greedy(fitted(blo, log, priors=BanditPriors(terms=(KappaOnPopularity(),)))),
    "BLOB, laplace, popularity": lambda blo, log: Greedy(
        fitted(blo, log, guide="laplace", priors=BanditPriors(terms=(KappaOnPopularity(),)))
    ),
    "BLOB, deviations": lambda blo, log: Greedy(fitted(blo, log, priors=BanditPriors(terms=(ItemDeviations(),)))),
    "BLOB, Student-t": lambda blo, log: Greedy(fitted(blo, log, priors=BanditPriors(kappa=StudentTKappa()))),
    "BLOB, sampled omega": lambda blo, log: Greedy(fitted(blo, log, omega="sample")),
    "BLOB, Thompson": lambda blo, log: ThompsonSampling(fitted(blo, log)),
    "BLOB, paper": lambda blo, log: Greedy(fitted(blo, log, priors=BanditPriors.paper())),
}
DEFAULT = ["BLO", "BLOB", "BLOB, paper"]


def rates(
    num_items: int, flips: int, environment_seed: int, log_seed: int, agents: list[str], num_users: int, interests: int
):
    environment = RecoGym(num_items=num_items, num_flips=flips, seed=environment_seed, embedding_dim=interests)
    logging = SessionPopularity(num_items, epsilon=0.3)
    log = environment.simulate(logging, num_users=1000, num_organic_users=20_000, seed=log_seed, propensities=False)
    blo = BLO(num_items, embedding_dim=20)
    blo.fit(log, seed=0, progress=False, device="cpu")
    policies = {"random": Uniform(num_items), **{name: AGENTS[name](blo, log) for name in agents}}
    result = ab_test(environment, {**policies, "oracle": environment.oracle()}, num_users=num_users)
    return {name: 100 * result.click_rate(name).value for name in result.policies}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per agent: mean, standard error over environments, share of the gain."""
    names = [name for name in table.columns if name not in ("flips", "environment", "log")]
    rows = []
    for flips, part in table.groupby("flips"):
        of_environments = part.groupby("environment")[names].mean()
        mean, error = of_environments.mean(), of_environments.std() / len(of_environments) ** 0.5
        gain = (mean - mean["random"]) / (mean["oracle"] - mean["random"])
        rows += [
            {"flips": flips, "agent": n, "click rate %": mean[n], "+-": error[n], "share of gain": gain[n]}
            for n in names
        ]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--interests", type=int, default=10, help="latent interests of RecoGym's users")
    parser.add_argument("--flips", type=int, nargs="+", default=[0, 50])
    parser.add_argument("--environments", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--logs", type=int, default=3)
    parser.add_argument("--test-users", type=int, default=2000)
    parser.add_argument("--agents", nargs="+", default=DEFAULT, choices=list(AGENTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for log_seed in range(arguments.logs):
        for environment in arguments.environments:
            for flips in arguments.flips:
                start = time.perf_counter()
                found = rates(
                    arguments.items,
                    flips,
                    environment,
                    log_seed,
                    arguments.agents,
                    arguments.test_users,
                    arguments.interests,
                )
                rows.append({"flips": flips, "environment": environment, "log": log_seed, **found})
                line = "  ".join(f"{name} {value:.3f}" for name, value in found.items())
                seconds = time.perf_counter() - start
                print(
                    f"flips {flips}, environment {environment}, log {log_seed}: {line}  ({seconds:.0f} s)", flush=True
                )
    print(summary(pd.DataFrame(rows)).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
