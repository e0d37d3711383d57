"""Propensities of correlated scores: relative error by size, kind of covariance and rarity, and CPU time of a vector.

    python benchmarks/correlated_propensities.py                        # the table: 5 to 50 actions, two of each kind
    python benchmarks/correlated_propensities.py --actions 20 --kinds   # one line for each kind of covariance

Truth is a run of its own with sixteen times the points and another seed; its own standard error is printed beside.
(The tests compare with quadrature and with SciPy.) Monte Carlo: the error of counting winners for the same time.
"""

import argparse
import math
import time

import torch

from blob_pyro.propensity import ArgmaxMultivariateNormal

BANDS = {"above 1e-3": (1e-3, 1.1), "1e-6 to 1e-3": (1e-6, 1e-3), "1e-12 to 1e-6": (1e-12, 1e-6)}
FIRST_SEED = 200  # others were used to choose methods and numbers of points


def problems(arms, seed):
    """Kinds of covariance: loc and covariance matrix of each."""
    generator = torch.Generator().manual_seed(1000 * seed + arms)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def uniform(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    eye, place = torch.eye(arms, dtype=torch.float64), torch.arange(arms)
    for more in (0, 5, 2 * arms):
        root = normal(arms, arms + more)
        yield f"Wishart, A + {more} degrees", 0.7 * normal(arms), root @ root.T / (arms + more)
    for rank in (2, 5, 20):
        factor = normal(arms, rank) / rank**0.5
        noise = torch.diag(0.05 * (0.5 + uniform(arms)))
        yield f"{rank} factors and small noise", 0.7 * normal(arms), factor @ factor.T + noise
    for correlation in (0.1, 0.9, 0.99):
        scale = torch.exp(0.5 * normal(arms))
        covariance = scale[:, None] * scale * (correlation + (1 - correlation) * eye)
        yield f"equicorrelated {correlation}", 0.7 * scale.mean() * (1 - correlation) ** 0.5 * normal(arms), covariance
    root = normal(arms, arms + 5) / arms**0.5
    scale = torch.exp((uniform(arms) - 1) * math.log(1e3))
    yield "scales of ratio 1e3", 0.3 * normal(arms), scale[:, None] * scale * (root @ root.T)
    block = place // max(2, arms // 4)
    yield "blocks of .8", 0.7 * normal(arms), 0.8 * (block[:, None] == block) + 0.2 * eye
    distance = (place[:, None] - place).abs()
    yield "alternating signs", 0.7 * normal(arms), (-0.9) ** distance.double()
    yield "as negative as can be", 0.7 * normal(arms), eye - 0.98 / arms


def measure(arms, seed):
    """For each kind: its method, CPU seconds, and relative errors, those of the truth and those of counting winners."""
    for kind, loc, covariance in problems(arms, seed):
        elapsed = math.inf
        for _ in range(2):
            d = ArgmaxMultivariateNormal(loc, covariance)
            start = time.process_time()
            probs = d.probs
            elapsed = min(elapsed, time.process_time() - start)
        longer = ArgmaxMultivariateNormal(loc, covariance, method=d.method, num_points=16 * d.num_points, seed=1)
        truth = longer.probs
        cholesky, draws, start = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(arms)), 0, time.process_time()
        while time.process_time() - start < elapsed:
            (loc + torch.randn(4096, arms, dtype=torch.float64) @ cholesky.T).argmax(-1)
            draws += 4096
        yield {
            "kind": kind,
            "method": d.method,
            "seconds": elapsed,
            "truth": truth,
            "error": (probs / truth - 1).abs(),
            "z": (probs - truth).abs() / (d.error_estimate.square() + longer.error_estimate.square()).sqrt(),
            "of truth": longer.error_estimate / truth,
            "counting": ((1 - truth) / truth / draws).sqrt(),
        }


def line(name, rows, low, high):
    def of(key):
        return torch.cat([row[key][(row["truth"] > low) & (row["truth"] <= high)] for row in rows])

    if not len(error := of("error")):
        return
    seconds = sorted(row["seconds"] for row in rows)
    print(
        f"{name:<44} {len(error):5}  {error.median():.0e}  {error.quantile(0.9):.0e}  {error.max():.0e}   "
        f"{(of('z') < 1.753).double().mean():4.0%}   {of('of truth').median():.0e}  "
        f"{1e3 * seconds[len(seconds) // 2]:4.0f}  {1e3 * seconds[-1]:4.0f}   {of('counting').median():.0e}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actions", type=int, nargs="+", default=[5, 10, 20, 24, 30, 50])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kinds", action="store_true", help="a line for each kind of covariance")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':<44} count  median 90 %  worst  in 90 %  truth  ms, most   Monte Carlo, median")
    for arms in arguments.actions:
        rows = [row for seed in range(arguments.seeds) for row in measure(arms, FIRST_SEED + seed)]
        for band, (low, high) in BANDS.items():
            line(f"A = {arms}, probabilities {band}", rows, low, high)
        if arguments.kinds:
            for kind in dict.fromkeys(row["kind"] for row in rows):
                some = [row for row in rows if row["kind"] == kind]
                line(f"    {kind} ({some[0]['method']})", some, 1e-12, 1.1)


if __name__ == "__main__":
    main()
