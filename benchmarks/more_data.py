"""What more data buys: shares of the way from random items to the oracle, by priors, flips and number of users.

``python benchmarks/more_data.py --output FOLDER`` logs by session popularity in RecoGym with ten latent interests and
100 items, fits BLOB with guide "laplace" and each of the priors, and lets it play greedily. It goes on from what
``FOLDER`` has.
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd
import torch

from blob_pyro import BLO, BLOB, BanditPriors
from blob_pyro.policies import Greedy, SessionPopularity, Uniform
from blob_pyro.simulation import RecoGym, ab_test

PRIORS = {"default": BanditPriors, "recommended": BanditPriors.recommended}


def organic(environment: RecoGym, folder: Path) -> BLO:
    """The organic model of the views of 20,000 users, which flips do not change; kept in ``folder``."""
    place = folder / "organic" / str(environment.seed)
    if not place.exists():
        blo = BLO(100, 20)
        blo.fit(environment.simulate(None, 0, 20_000), seed=environment.seed, progress=False, device="cpu")
        place.parent.mkdir(parents=True, exist_ok=True)
        blo.save(place)
    return BLO.load(place, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[230, 231, 232, 233, 234, 235])
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000])
    parser.add_argument("--flips", type=int, nargs="+", default=[50, 0])
    parser.add_argument("--test-users", type=int, default=1_000)
    parser.add_argument("--output", type=Path, default=Path("more-data"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    table = options.output / "more_data.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    for users in options.users:
        for seed in options.seeds:
            for flips in options.flips:
                done = {
                    row["priors"] for row in rows if (row["seed"], row["flips"], row["users"]) == (seed, flips, users)
                }
                missing = {name: priors for name, priors in PRIORS.items() if name not in done}
                if not missing:
                    continue
                environment = RecoGym(100, flips, seed, embedding_dim=10)
                blo = organic(environment, options.output)
                log = environment.simulate(SessionPopularity(100), users, first_user=20_000, propensities=False)
                bounds = {"random": Uniform(100), "oracle": environment.oracle()}
                fitted = {}
                for name, priors in missing.items():
                    fitted[name] = BLOB(blo, guide="laplace", priors=priors())
                    fitted[name].fit(log, progress=False, device="cpu")
                played = {name: Greedy(blob) for name, blob in fitted.items()}
                test = ab_test(environment, {**bounds, **played}, options.test_users)
                way = {name: test.difference(name, "random").value for name in played}
                whole = test.difference("oracle", "random").value
                for name in missing:
                    scales = {n: float(getattr(fitted[name].model, n).detach()) for n in fitted[name].model.learned}
                    rows.append(
                        {
                            "seed": seed,
                            "flips": flips,
                            "users": users,
                            "priors": name,
                            "share": way[name] / whole,
                            **scales,
                        }
                    )
                pd.DataFrame(rows).to_csv(table, index=False, float_format="%.5g")
                print(rows[-len(missing) :], flush=True)
    found = pd.DataFrame(rows).groupby(["flips", "users", "priors"])["share"].agg(["mean", "sem", "size"])
    print(found.round(3).to_string())


if __name__ == "__main__":
    main()
