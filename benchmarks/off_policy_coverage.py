"""Coverage of off-policy intervals in RecoGym: `blob_pyro.experiments.off_policy_coverage`.

    python benchmarks/off_policy_coverage.py [--logs 200] [--output benchmarks/results/off_policy_coverage]

A log with its three kinds of propensities takes a third of a second on one core. A call that is stopped is gone on with
by the same call; one with more logs goes on from those that there are. Settings were chosen on environments of seeds
100 to 111; those reported have the seeds 200 and 201.
"""

import argparse
import math
from pathlib import Path

from tqdm import tqdm

from blob_pyro.experiments.off_policy_coverage import OffPolicyCoverage
from blob_pyro.experiments.off_policy_coverage_report import Runs, plot, shifts, summarize, verdict

RESULTS = Path(__file__).parent / "results" / "off_policy_coverage"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = Runs(OffPolicyCoverage(), arguments.output)
    runs.complete_ab_tests()
    blocks = range(math.ceil(arguments.logs / runs.experiment.logs_per_block))
    for _ in tqdm(runs.complete(blocks), total=len(blocks), unit="block"):
        pass
    logs = runs.logs[runs.logs["block"].isin(blocks)]
    summary = summarize(logs)
    rates = shifts(logs, runs.ab_tests)
    percent = ["logged", "ab_test", "shift", "shift_error"]
    shown = ["kind", "target", "estimator", "coverage", "coverage_error", "below", "above", "bias_errors"]
    shown += ["spread", "standard_error", "effective_sample_size", "few", "skewness", "warned"]
    lines = [
        f"{runs.experiment}",
        f"{len(blocks) * runs.experiment.logs_per_block} logs for each kind of propensities, "
        f"{logs['rows'].mean():,.0f} impressions and {logs['clicks'].mean():,.0f} clicks each; nominal 95 % intervals, "
        "by user, of the value on the logged contexts",
        *verdict(summary),
        "",
        summary[shown].to_string(index=False, float_format=lambda value: f"{value:.4g}"),
        "",
        "click rates in %: on the logged contexts, in an A/B test, and how much the contexts differ",
        rates.assign(**{name: 100 * rates[name] for name in percent}).to_string(index=False, float_format="%.4f"),
    ]
    text = "\n".join(lines)
    print(text)
    (arguments.output / "coverage.txt").write_text(text + "\n")
    summary.to_csv(arguments.output / "summary.csv", index=False, float_format="%.5g")
    plot(summary).savefig(arguments.output / "coverage.png", dpi=100)


if __name__ == "__main__":
    main()
