"""Coverage of nominal 95 % off-policy intervals against what the warning looks at: `blob_pyro.ope.reliability`.

    python benchmarks/ope_coverage.py [--logs 1000]

Logs of ten actions under a softmax policy, the target a softmax of another score; heavier weights, rarer rewards and
fewer rows from line to line. The truth is exact: the contexts are 50, in known proportions. A line gives the rows, the
median over logs of the effective sample size, of the largest share and of the skewness, the coverage of ips, snips and
beta_ips, and how often the warning was raised.
"""

import argparse
import itertools
import warnings

import numpy as np

from blob_pyro.ope import beta_ips, ips, snips

CONTEXTS, ACTIONS = 50, 10


def problem(sharpness, rate):
    rng = np.random.default_rng(7)

    def policy(scale):
        weight = np.exp(scale * rng.normal(size=(CONTEXTS, ACTIONS)))
        return weight / weight.sum(-1, keepdims=True)

    logging, target = policy(sharpness), policy(sharpness)
    logit = np.log(rate / (1 - rate)) + 0.7 * rng.normal(size=(CONTEXTS, ACTIONS))
    return logging, target, 1 / (1 + np.exp(-logit))


def line(rows, sharpness, rate, logs, estimators=(ips, snips, beta_ips)):
    logging, target, click = problem(sharpness, rate)
    truth = (target * click).sum(-1).mean()
    cumulative = logging.cumsum(-1)
    rng = np.random.default_rng(11)
    inside, doubted, traits = np.zeros(3), 0, []
    for _ in range(logs):
        x = rng.integers(CONTEXTS, size=rows)
        a = (rng.random(rows)[:, None] > cumulative[x]).sum(-1).clip(max=ACTIONS - 1)
        r = (rng.random(rows) < click[x, a]).astype(float)
        for k, estimator in enumerate(estimators):
            estimate = estimator(r, target[x, a], logging[x, a])
            low, high = estimate.interval()
            inside[k] += low <= truth <= high
        doubted += bool(estimate.doubts)
        psi = ips(r, target[x, a], logging[x, a]).moments.influences()
        skew = float(psi.pow(3).sum() / psi.square().sum() ** 1.5)
        traits.append((estimate.effective_sample_size, estimate.weights.largest_share, skew))
    return (rows, sharpness, rate, *np.median(traits, 0), *(inside / logs), doubted / logs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--logs", type=int, default=1000)
    logs = parser.parse_args().logs
    warnings.simplefilter("ignore")
    print("  rows  sharp   rate      ESS   share   skew    ips   snips   beta  warned")
    for rows, sharpness, rate in itertools.product((1000, 3000, 10_000), (0.3, 0.8, 1.2, 1.6), (0.3, 0.02)):
        n, s, p, ess, share, skew, *cover, warned = line(rows, sharpness, rate, logs)
        covers = "  ".join(f"{c:.3f}" for c in cover)
        print(f"{n:6,} {s:6.1f} {p:6.2f} {ess:8,.0f} {share:7.4f} {skew:6.2f}  {covers}  {warned:6.2f}", flush=True)


if __name__ == "__main__":
    main()
