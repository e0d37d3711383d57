"""Thompson-sampling propensities of played actions: the three ways that BLOB has, beside scoring, on one core.

    OMP_NUM_THREADS=1 python benchmarks/thompson.py
    OMP_NUM_THREADS=1 python benchmarks/thompson.py --doubt 0.02     # hardly any doubt about items' own click rates

Every context plays one action of its own; times are CPU seconds of this machine while it runs, with the means of the
logits computed anew, so compare ratios within a run. Truth is a trapezoidal rule with thousands of nodes over SciPy's
``log_ndtr``, which shares no code with the package.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import torch
from scipy.special import log_ndtr, logsumexp
from torch import Tensor

from blob_pyro.models.sites import KAPPA, W_A, W_B, W_C, ZETA
from blob_pyro.policies.thompson import ConditionalThompsonActions, MixtureThompsonActions, ThompsonActions
from blob_pyro.posteriors.click_logits import ClickLogits
from blob_pyro.propensity import PropensityToleranceWarning

EMBEDDING_DIM, POINTS = 20, 32
CONTEXTS = {100: 2000, 10_000: 24}
TARGETS = {(100, "conditional"): 2000, (10_000, "conditional"): 25, (100, "mixture"): 150, (10_000, "mixture"): 5}
CHECKED = {100: 8, 10_000: 1}
NODES = {100: 20_000, 10_000: 2000}


def posterior(num_items: int, num_contexts: int, doubt: float) -> ClickLogits:
    """As a fit leaves it: logits differ by about 1 between items, and their own doubts by a factor of ten."""
    generator = torch.Generator().manual_seed(num_items)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    psi = randn(num_items, EMBEDDING_DIM)
    scale = doubt * 10 ** (torch.rand(num_items, generator=generator) - 0.5)
    sites = {
        W_A: dist.Normal(torch.tensor(-2.0), 0.3),
        W_B: dist.Normal(torch.tensor(-2.5), 0.3),
        W_C: dist.Normal(torch.tensor(-4.0), 0.1),
        KAPPA: dist.Normal(0.5 * randn(num_items), scale).to_event(1),
        ZETA: dist.Normal(randn(EMBEDDING_DIM, EMBEDDING_DIM), torch.tensor(0.7)).to_event(2),
    }
    whitening = torch.linalg.cholesky(psi.mT @ psi / num_items)
    return ClickLogits(sites, psi, whitening, randn(num_contexts, EMBEDDING_DIM))


def seconds(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """CPU seconds of the faster of two runs, and what it returned."""
    best = math.inf
    for _ in range(2):
        start = time.process_time()
        result = call()
        best = min(best, time.process_time() - start)
    return best, result


def exact(loc: np.ndarray, scale: np.ndarray, action: int, num_nodes: int) -> float:
    """Log-probability of the action, by brute force around the integrand's peak."""
    others = np.arange(len(loc)) != action

    def log_integrand(y: np.ndarray) -> np.ndarray:
        z = (y - loc[action]) / scale[action]
        rest = [log_ndtr((one - loc[others]) / scale[others]).sum() for one in y]
        return -0.5 * z**2 - np.log(scale[action] * math.sqrt(2 * math.pi)) + np.array(rest)

    low, high = loc[action] - 40 * scale[action], max((loc + 40 * scale).max(), loc[action] + 40 * scale[action])
    for _ in range(6):  # where it is within e^-45 of its peak
        y = np.linspace(low, high, 200)
        value = log_integrand(y)
        inside = np.flatnonzero(value > value.max() - 45)
        low, high = y[max(inside[0] - 1, 0)], y[min(inside[-1] + 1, 199)]
    step = (high - low) / (num_nodes - 1)  # and not the difference of two nodes, which has lost digits
    return float(logsumexp(log_integrand(low + step * np.arange(num_nodes))) + math.log(step))


def errors(actions: ConditionalThompsonActions | MixtureThompsonActions, played: Tensor, found: Tensor) -> str:
    """Largest relative and absolute differences from brute force in the first few contexts."""
    scale, relative, absolute = actions.scale[0].numpy(), 0.0, 0.0
    num_items = len(scale)
    for context in range(CHECKED[num_items]):
        if isinstance(actions, MixtureThompsonActions):
            loc = actions._in(torch.tensor([context])).location(actions.points)[0]
        else:
            loc = actions.loc[context][None]
        parts = [exact(row.numpy(), scale, int(played[context]), NODES[num_items]) for row in loc]
        truth = logsumexp(parts) - math.log(len(parts))
        relative = max(relative, abs(math.expm1(float(found[context]) - truth)))
        absolute = max(absolute, abs(math.exp(float(found[context])) - math.exp(truth)))
    return f"relative {relative:.0e}, absolute {absolute:.0e} ({CHECKED[num_items]} contexts)"


def row(what: str, count: int, elapsed: float, scoring: float, target: object = "", accuracy: str = "") -> None:
    rate, cost = f"{count / elapsed:,.0f}/s", f"{elapsed / scoring:,.1f} x scoring"
    print(f"  {what:<44}{rate:>14} {cost:>22}   {target!s:>8}   {accuracy}", flush=True)


def measure(num_items: int, doubt: float) -> None:
    count = CONTEXTS[num_items]
    logits = posterior(num_items, count, doubt)
    print(f"P = {num_items:,}, {count:,} contexts, doubt about items' own logits {doubt:g}")
    scoring, _ = seconds(lambda: logits[:].mean)
    row("scoring: posterior mean logits", count, scoring, scoring)
    torch.manual_seed(0)
    whole = ThompsonActions(logits).sample()
    drawing, _ = seconds(lambda: ThompsonActions(logits[:]).sample())
    row("playing, no propensities", count, drawing, scoring)

    some = slice(0, max(2, count // 20))
    few = logits[some]
    cheap = len(few.interest) * scoring / count
    elapsed, table = seconds(lambda: ThompsonActions(few).log_prob(whole[some]))
    actions = ThompsonActions(few)
    error = (actions.propensity(whole[some]).error / table.exp()).to(torch.float64)
    row(
        "estimate, 8 x 16 points", len(few.interest), elapsed, cheap, "",
        f"relative standard error: median {error.median():.1%}, worst {error.max():.0%}",
    )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PropensityToleranceWarning)
        close = ThompsonActions(few, tolerance=0.05, max_points=2**12)
        elapsed, _ = seconds(lambda: close.log_prob(whole[some]))
        found = close.propensity(whole[some])
    missed = (found.error > 0.05 * found.probability).double().mean()
    row("estimate, to 5 % or 4,096 points", len(few.interest), elapsed, cheap, "", f"{missed:.0%} do not get there")

    shared = torch.randn(count, logits.num_factors, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    conditional = ConditionalThompsonActions(logits, shared)
    played = conditional.sample()
    elapsed, found = seconds(lambda: ConditionalThompsonActions(logits[:], shared).log_prob(played))
    target = f"{TARGETS[num_items, 'conditional']:,}/s"
    row("conditional", count, elapsed, scoring, target, errors(conditional, played, found))

    mixture = MixtureThompsonActions(logits, POINTS)
    played = mixture.sample()
    few_contexts = slice(0, count // 4)
    elapsed, found = seconds(
        lambda: MixtureThompsonActions(logits[few_contexts], POINTS).log_prob(played[few_contexts])
    )
    target = f"{TARGETS[num_items, 'mixture']:,}/s"
    row(f"mixture, M = {POINTS}", count // 4, elapsed, scoring / 4, target, errors(mixture, played, found))
    twice = logits[torch.arange(count // 4).repeat_interleave(4)]
    action = played[few_contexts].repeat_interleave(4)
    elapsed, again = seconds(lambda: MixtureThompsonActions(twice, POINTS).log_prob(action))
    agrees = f"as above to {(again.view(-1, 4) - found[:, None]).abs().max():.0e}"
    row("mixture, each decision four times over", count, elapsed, scoring, "", agrees)
    elapsed, table = seconds(lambda: MixtureThompsonActions(few, POINTS).log_probs)
    difference = (table.gather(1, played[some, None]).squeeze(1) - found[: len(few.interest)]).abs().max()
    agrees = f"played actions as above to {difference:.0e}"
    row("mixture, probabilities of all items", len(few.interest), elapsed, cheap, "", agrees)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--doubt", type=float, default=0.3, help="median posterior standard deviation of kappa")
    doubt = parser.parse_args().doubt
    torch.set_num_threads(1)
    print(f"  {'':<44}{'contexts':>14} {'cost':>22}   {'target':>8}   accuracy")
    for num_items in CONTEXTS:
        measure(num_items, doubt)


if __name__ == "__main__":
    main()
