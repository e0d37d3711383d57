"""What gradient ascent on an off-policy estimate gains, in true clicks: `blob_pyro.experiments.off_policy_learning`.

    python benchmarks/off_policy_learning.py [--environments 10] [--objective doubly_robust] [--output FOLDER]

Settings were chosen on the environments of seeds 100 and 101; those reported have the seeds 0, 1, ...
"""

import argparse
from pathlib import Path

import pandas as pd

from blob_pyro.experiments.off_policy_learning import OffPolicyLearning, plot, summarize


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--environments", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--objective", default="doubly_robust", choices=["doubly_robust", "snips"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    experiment = OffPolicyLearning(objective=arguments.objective)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.environments)
    runs = pd.concat([experiment.run(seed) for seed in seeds], ignore_index=True)
    table = summarize(runs)
    percent = ["click_rate", "gain", "gain_low", "gain_high"]
    text = (
        f"{experiment}\nclick rates in %, mean of {len(seeds)} environments; gain on the start, 95 % interval\n\n"
        + table.assign(**{name: 100 * table[name] for name in percent}).to_string(index=False, float_format="%.3f")
    )
    print(text)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / f"{arguments.objective}.txt").write_text(text + "\n")
        runs.to_csv(arguments.output / f"{arguments.objective}.csv", index=False, float_format="%.6g")
        plot(runs).savefig(arguments.output / f"{arguments.objective}.png", dpi=100)


if __name__ == "__main__":
    main()
