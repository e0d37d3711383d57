"""Propensities: accuracy and speed, ours beside the published formulas and Monte Carlo, in one run on one core.

    python benchmarks/propensity.py                          # the table, and a figure in benchmarks/results/
    python benchmarks/propensity.py --figure path/to.png     # the figure elsewhere

Truth is mpmath at 50 digits or exact rationals (the tests' oracles); the SciPy route is the paper's eq. 6 with
variances. Times are CPU seconds of this machine while it runs; compare them within a run.
"""

import argparse
import csv
import functools
import math
import sys
import time
from pathlib import Path

import torch
from scipy.stats import t as student

from blob_pyro.propensity import (
    ArgmaxBeta,
    ArgmaxMultivariateNormal,
    ArgmaxNormal,
    RankBeta,
    argmax_normal_log_probs,
    interpolated_argmax_normal_probs,
)
from blob_pyro.propensity.closed_form import beta_max_by_symmetry, normal_argmax_probs

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "propensity"))

from propensity_oracles import (  # noqa: E402
    beta_log_prob,
    exact_beta_rank_probs,
    normal_log_prob,
    normal_prob_gradient,
)

DEVICE_SIZES = {10: 200_000, 1_000_000: 1}


def seconds(call, repeats=1):
    """CPU seconds of the fastest of a few runs, and what it returned."""
    best, result = math.inf, None
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        best = min(best, time.process_time() - start)
    return best, result


def row(what, target, ours, reference=""):
    print(f"{what:<52} {target:<34} {ours:<46} {reference}", flush=True)


def random_normals(contexts, arms, ratio, generator, device="cpu"):
    loc = torch.randn(contexts, arms, dtype=torch.float64, generator=generator)
    scale = torch.exp((torch.rand(contexts, arms, dtype=torch.float64, generator=generator) - 0.5) * math.log(ratio))
    return loc.to(device), scale.to(device)


def normal_accuracy(generator):
    for ratio, target in ((10, "abs 1e-14, log 1e-12, sum 1e-13"), (1e8, "log 1e-11")):
        worst_abs = worst_log = worst_sum = 0.0
        for _ in range(4):
            loc, scale = random_normals(1, 4, ratio, generator)
            loc = loc * (4 if ratio == 10 else scale.flip(-1) * 3)
            log_probs = ArgmaxNormal(loc[0], scale[0]).log_probs
            for action in range(4):
                exact = normal_log_prob(loc[0].tolist(), scale[0].tolist(), action)
                if exact > math.log(1e-300):
                    worst_log = max(worst_log, abs(float(log_probs[action].item() - exact)))
                    worst_abs = max(worst_abs, abs(log_probs[action].exp().item() - math.exp(exact)))
            worst_sum = max(worst_sum, abs(log_probs.exp().sum().item() - 1))
        row(
            f"normal, scale ratio up to {ratio:g} (mpmath)",
            target,
            f"abs {worst_abs:.1e}, log {worst_log:.1e}, sum {worst_sum:.1e}",
        )


def beta_accuracy(generator):
    worst = 0.0
    for a, b in (([3, 1, 5], [4, 2, 9]), ([30, 2], [2, 60]), ([40, 3, 20], [2, 40, 3])):
        log_probs = ArgmaxBeta(torch.tensor(a).double(), torch.tensor(b).double()).log_probs
        for arm, exact in enumerate(exact_beta_rank_probs(a, b)):
            logarithm = math.log(exact[0].numerator) - math.log(exact[0].denominator)
            worst = max(worst, abs(log_probs[arm].item() - logarithm))
    tiny = [0.05, 0.01], [0.02, 0.04]
    d = ArgmaxBeta(*(torch.tensor(values, dtype=torch.float64) for values in tiny))
    small = abs(d.log_probs[0].item() - float(beta_log_prob(*tiny, 0)))
    a = torch.exp(torch.rand(500, 4, dtype=torch.float64, generator=generator) * math.log(1e8) + math.log(1e-2))
    error = (ArgmaxBeta(a, torch.ones_like(a)).log_probs - (a / a.sum(-1, keepdim=True)).log()).abs().max().item()
    row("beta, 1e-2 to 1e6 (rationals; mpmath; Beta(a, 1))", "log 1e-11", f"log {worst:.1e}; {small:.1e}; {error:.1e}")


def gradients():
    loc, scale = [0.0, 0.3, 0.31], [3.0, 1.0, 0.1]
    parameters = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in (loc, scale)]
    worst = 0.0
    for name, parameter in zip(("loc", "scale"), parameters):
        (gradient,) = torch.autograd.grad(ArgmaxNormal(*parameters).probs[0], parameter)
        exact = [float(normal_prob_gradient(loc, scale, 0, arm, name)) for arm in range(2)]
        worst = max(worst, *(abs(g - e) for g, e in zip(gradient.tolist(), exact)))
    row("gradients (mpmath)", "1e-12", f"{worst:.1e}")


def single_precision(generator):
    loc, scale = random_normals(200, 20, 10, generator)
    single, double = (
        ArgmaxNormal(loc.float(), scale.float()),
        ArgmaxNormal(loc.float().double(), scale.float().double()),
    )
    error, log_error = (single.probs - double.probs).abs(), (single.log_probs - double.log_probs).abs()
    row(
        "float32",
        "abs 5e-7, log 2e-5",
        f"abs {error.max():.1e}, log {log_error.max():.1e}",
    )


def normal_speed(generator):
    loc, scale = random_normals(1, 10, 10, generator)
    scipy_time, scipy_probs = seconds(lambda: normal_argmax_probs(loc[0].tolist(), scale[0].tolist(), tolerance=1e-5))
    error = (torch.from_numpy(scipy_probs) - ArgmaxNormal(loc[0], scale[0]).probs).abs().max().item()
    references = {
        10: f"SciPy {1 / scipy_time:.1f}/s at {error:.0e}",
        100: "SciPy: minutes a context",
        1000: "infeasible",
    }
    for arms, contexts, target in ((10, 20_000, 10_000), (100, 1000, 1500), (1000, 60, 250)):
        loc, scale = random_normals(contexts, arms, 10, generator)
        elapsed, _ = seconds(functools.partial(argmax_normal_log_probs, loc, scale), repeats=3)
        row(f"normal, A = {arms}", f"{target:,} contexts/s", f"{contexts / elapsed:,.0f} contexts/s", references[arms])


def million_arms(generator):
    loc = torch.randn(1_000_000, dtype=torch.float64, generator=generator)
    scale = torch.rand(1_000_000, dtype=torch.float64, generator=generator) * 0.6 + 0.4
    direct, exact = seconds(lambda: ArgmaxNormal(loc, scale).probs)
    quick, probs = seconds(lambda: interpolated_argmax_normal_probs(loc, scale))
    row("normal, A = 1,000,000, direct", "8 s", f"{direct:.1f} s, sum {exact.sum().item() - 1:.0e}", "infeasible")
    row("normal, A = 1,000,000, interpolated", "1.5 s at 1e-12", f"{quick:.2f} s at {(probs - exact).abs().max():.0e}")


def beta_speed(generator):
    a = torch.randint(2, 60, (1000, 6), generator=generator).double()
    b = torch.randint(50, 500, (1000, 6), generator=generator).double()
    elapsed, _ = seconds(lambda: ArgmaxBeta(a, b).log_probs, repeats=2)
    ones, zeros = [6, 7, 5, 9, 4, 8], [9, 8, 11, 7, 12, 10]
    exact_time, exact = seconds(
        lambda: torch.tensor([float(beta_max_by_symmetry(zeros, ones, k)) for k in range(6)], dtype=torch.float64)
    )
    error = (ArgmaxBeta(torch.tensor(zeros).double(), torch.tensor(ones).double()).probs - exact).abs().max()
    row(
        "beta, A = 6",
        "500 contexts/s",
        f"{1000 / elapsed:,.0f} contexts/s, {error:.0e} from the closed form",
        f"closed form, counts up to 9: {exact_time:.1f} s a context",
    )


def open_bandit():
    folder = ROOT / "tests" / "data" / "open_bandit"
    with (folder / "women_prior.csv").open() as file:
        prior = list(csv.DictReader(file))
    with (folder / "women_bts_first_seven_minutes.csv").open() as file:
        log = [r for r in csv.DictReader(file) if abs(float(r["propensity_score"]) - 1 / 46) > 1e-6]
    alpha, beta = (torch.tensor([float(r[key]) for r in prior], dtype=torch.float64) for key in ("alpha", "beta"))
    elapsed, exact = seconds(lambda: RankBeta(alpha.expand(20, 46), beta.expand(20, 46)).probs[0], repeats=2)
    outside = []
    for r in log:
        p = exact[int(r["item_id"]), int(r["position"]) - 1].item()
        if abs(float(r["propensity_score"]) - p) > 3 * math.sqrt(p * (1 - p) / 200_000):
            outside.append(r["timestamp"][11:19])
    drawn = RankBeta(alpha, beta).sample((20_000,))
    frequency = torch.stack([torch.bincount(drawn[:, k], minlength=46) for k in range(3)], dim=-1) / 20_000
    row(
        "ranks, A = 46, 3 slots (Open Bandit, women)",
        "20 contexts/s at 1e-10",
        f"{20 / elapsed:.0f} contexts/s, sum {(exact.sum(0) - 1).abs().max():.0e}",
        f"20,000 draws: off by {(frequency - exact).abs().max():.0e}",
    )
    row(
        "Open Bandit log, first seven minutes",
        "12 of 13 rows agree",
        f"{len(log) - len(outside)} of {len(log)}; not: {outside}",
    )


def correlated(generator):
    for arms in (5, 10, 20):
        times, errors, truths, ratios, counting = [], [], [], [], []
        for _ in range(3):
            root = torch.randn(arms, arms + 5, dtype=torch.float64, generator=generator)
            covariance = root @ root.T / arms
            loc = 0.7 * torch.randn(arms, dtype=torch.float64, generator=generator)
            truth = ArgmaxMultivariateNormal(loc, covariance, num_points=16384, seed=1).probs
            d = ArgmaxMultivariateNormal(loc, covariance)
            elapsed, probs = seconds(lambda d=d: d.probs)
            common = truth > 1e-3
            times.append(elapsed)
            errors.append(((probs - truth) / truth).abs()[common])
            ratios.append(((probs - truth) / d.error_estimate)[common])
            truths.append(truth[common])
            cholesky = torch.linalg.cholesky(covariance)
            draws, spent = 0, time.process_time()
            while time.process_time() - spent < elapsed:
                (loc + torch.randn(4096, arms, dtype=torch.float64) @ cholesky.T).argmax(-1)
                draws += 4096
            counting.append((((1 - truth) / truth / draws) ** 0.5)[common])
        errors, ratios = torch.cat(errors), torch.cat(ratios)
        inside = (ratios.abs() < student.ppf(0.95, 15)).double().mean()
        row(
            f"correlated, A = {arms} (probabilities above 1e-3)",
            "1e-4 relative in 100 ms",
            f"median {errors.median():.0e}, worst {errors.max():.0e}, {max(times) * 1e3:.0f} ms; {inside:.0%} in 90 %",
            f"Monte Carlo, same time: median {torch.cat(counting).median():.0e}",
        )


def cuda(generator):
    if not torch.cuda.is_available():
        row("CUDA", "A = 10: 1e7/s; A = 1e6: 10 ms", "no device here: not measured")
        return
    for arms, contexts in DEVICE_SIZES.items():
        loc, scale = random_normals(contexts, arms, 10 if arms == 10 else 2.5, generator, "cuda")

        def run(loc=loc, scale=scale):
            argmax_normal_log_probs(loc, scale)
            torch.cuda.synchronize()

        elapsed, _ = seconds(run, repeats=3)
        row(f"CUDA, A = {arms:,}", "1e7/s; 10 ms", f"{contexts / elapsed:,.0f} contexts/s, {elapsed * 1e3:.1f} ms")


def draw_figure(path, generator):
    """Largest absolute error against seconds for one vector: ours at several panel widths, SciPy's, Monte Carlo."""
    import dataclasses

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from blob_pyro.propensity.kernels.normal import EXACT, QUICK

    loc, scale = random_normals(1, 10, 10, generator)
    truth = argmax_normal_log_probs(loc, scale, dataclasses.replace(EXACT, units_per_panel=2.0))[0].exp()

    def error(probs):
        return max((torch.as_tensor(probs) - truth).abs().max().item(), 1e-17)

    many_loc, many_scale = loc.expand(2000, 10), scale.expand(2000, 10)
    curves = {"blob_pyro (grid, 2,000 contexts at once)": [], "SciPy (paper's eq. 6)": [], "Monte Carlo": []}
    for accuracy in (
        dataclasses.replace(QUICK, units_per_panel=20.0),
        dataclasses.replace(QUICK, units_per_panel=14.0),
        QUICK,
        dataclasses.replace(EXACT, units_per_panel=7.0),
        EXACT,
    ):
        elapsed, probs = seconds(
            lambda a=accuracy: argmax_normal_log_probs(many_loc, many_scale, a)[0].exp(), repeats=3
        )
        curves["blob_pyro (grid, 2,000 contexts at once)"].append((elapsed / 2000, error(probs)))
    for tolerance in (1e-3, 1e-4, 1e-5):
        elapsed, probs = seconds(
            lambda t=tolerance: normal_argmax_probs(loc[0].tolist(), scale[0].tolist(), tolerance=t)
        )
        curves["SciPy (paper's eq. 6)"].append((elapsed, error(probs)))
    for draws in (10**3, 10**4, 10**5, 10**6):
        d = ArgmaxNormal(loc[0], scale[0])
        elapsed, sample = seconds(lambda n=draws, d=d: torch.bincount(d.sample((n,)), minlength=10) / n)
        curves["Monte Carlo"].append((elapsed, error(sample)))
    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110)
    for (label, points), marker in zip(curves.items(), "osx"):
        axes.loglog(*zip(*points), marker=marker, label=label)
    axes.set(xlabel="seconds for one vector, one core", ylabel="largest absolute error", title="Ten normal scores")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"figure: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path, default=ROOT / "benchmarks" / "results" / "propensity.png")
    figure = parser.parse_args().figure
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    row("what", "target", "ours", "reference")
    normal_accuracy(generator)
    beta_accuracy(generator)
    gradients()
    single_precision(generator)
    normal_speed(generator)
    million_arms(generator)
    beta_speed(generator)
    open_bandit()
    correlated(generator)
    cuda(generator)
    draw_figure(figure, generator)


if __name__ == "__main__":
    main()
