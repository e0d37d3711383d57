"""The bandit fit: seconds to within 0.1 % of the converged ELBO, noise of the gradient, and one large epoch.

    python benchmarks/bandit.py            # the log of 1,000 users, P = 100, K = 20
    python benchmarks/bandit.py --large    # 1e7 events, P = 10,000, K = 64: one epoch, and peak memory
    python benchmarks/bandit.py --cuda     # steps per second on a GPU, ours and plain pyro.infer.SVI

One thread; the seconds of fits are of the process. Compare figures of one run with each other only. The published code
takes 2,800 to 3,000 s for the first.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO

from blob_pyro import BLO, BLOB
from blob_pyro.guides import make_guide
from blob_pyro.infer import (
    ConvergenceWarning,
    FitRequest,
    GuidedELBO,
    LocalReparameterization,
    PoorFitWarning,
    Training,
    fit_guide,
    seeded,
)
from blob_pyro.models import BanditBatch, BanditModel, BanditPriors
from blob_pyro.policies import SessionPopularity
from blob_pyro.simulation import RecoGym

LOCAL, PLAIN = GuidedELBO(LocalReparameterization), TraceMeanField_ELBO()


def standard_log(device: str) -> tuple[BLO, object]:
    environment = RecoGym(num_items=100, num_flips=50, seed=100)
    logging = SessionPopularity(100, epsilon=0.3)
    log = environment.simulate(logging, num_users=1000, num_organic_users=20_000, propensities=False)
    blo = BLO(100, embedding_dim=20)
    blo.fit(log, num_epochs=30, progress=False, device=device)
    return blo, log


def fits(blo: BLO, log) -> None:
    print(f"{'guide':>20} {'epochs':>6} {'seconds':>8} {'ELBO / event':>13} {'+-':>9} {'short of long fit':>18}")
    long = {"num_epochs": 1000, "learning_rate": 0.05}
    reference = float("nan")
    for guide, settings in (
        ("normal", long),
        ("normal", {}),
        ("arrowhead_normal", {}),
        ("matrix_normal", long),
        ("matrix_normal", {}),
        ("matrix_normal_full", {}),
        ("laplace", {}),
        ("low_rank", {}),
    ):
        blob = BLOB(blo, guide)
        start = time.process_time()
        history = blob.fit(log, progress=False, device="cpu", **settings)
        seconds = time.process_time() - start
        elbo, error = blob.elbo(log)
        reference = elbo if settings else reference
        short = (reference - elbo) / abs(reference)
        print(f"{guide:>20} {len(history):>6} {seconds:>8.1f} {elbo:>13.6f} {error:>9.6f} {short:>18.3%}")


def noise(blo: BLO, log) -> None:
    print("\nVariance of the ELBO over all events: sampling weights / sampling logits, along a fit")
    lengths = (0, 1, 2, 5, 53)
    print(f"{'epochs':>20}", *(f"{n:>8}" for n in lengths))
    for guide in ("normal", "matrix_normal", "matrix_normal_full", "low_rank"):
        blob, ratios = BLOB(blo, guide), []
        batch = blob.batch(log)
        for num_epochs in lengths:
            if num_epochs:
                blob.fit(log, num_epochs=num_epochs, progress=False, device="cpu")
            with torch.no_grad():
                plain, local = (
                    torch.stack([elbo.differentiable_loss(blob.model, blob.guide, batch) for _ in range(60)]).var()
                    for elbo in (PLAIN, LOCAL)
                )
            ratios.append(float(plain / local))
        print(f"{guide:>20}", *(f"{ratio:>8.1f}" for ratio in ratios))


def large(num_events: int = 10_000_000, num_items: int = 10_000, embedding_dim: int = 64) -> None:
    torch.manual_seed(0)
    num_contexts = num_events // 10
    batch = BanditBatch(
        torch.randn(num_contexts, embedding_dim),
        torch.randint(num_contexts, (num_events,)),
        torch.randint(num_items, (num_events,)),
        (torch.rand(num_events) < 0.01).float(),
        num_events,
    )
    model = BanditModel(torch.randn(num_items, embedding_dim) / 8, BanditPriors())
    guide = make_guide("normal", model)
    start = time.perf_counter()
    fit_guide(guide, FitRequest(model, batch, Training(1, 65_536, 0.03), progress=False))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - start
    print(f"{num_events:,} events, P = {num_items:,}, K = {embedding_dim}: one epoch {seconds:.0f} s, {peak:.1f} GiB")


def steps(blo: BLO, log, device: str, num_steps: int = 300, batch_size: int = 1024) -> None:
    print(f"\nSteps per second at batch {batch_size:,}, on {device}")
    blob = BLOB(blo)
    blob.to(device)
    batch = blob.batch(log)
    index = [torch.randint(len(batch), (batch_size,), device=device) for _ in range(num_steps)]
    baseline = 0.0
    for name, elbo in (("pyro.infer.SVI, sampling weights", PLAIN), ("pyro.infer.SVI, sampling logits", LOCAL)):
        pyro.clear_param_store()
        svi = SVI(blob.model, blob.guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        for i in index[:20]:
            svi.step(batch[i])
        wait(device)
        start = time.perf_counter()
        for i in index:
            svi.step(batch[i])
        wait(device)
        rate = num_steps / (time.perf_counter() - start)
        baseline = baseline or rate
        print(f"{name:>34} {rate:>8.0f} {rate / baseline:>6.1f} x")
    rows = batch[torch.arange(60 * batch_size, device=device)]  # whole batches: a shorter last one is not captured
    for name, capture in (("blob_pyro.infer.train", False), ("blob_pyro.infer.train, captured", True)):
        blob = BLOB(blo)
        blob.to(device)
        with seeded(0, device):
            training = Training(6, batch_size, 0.01, capture=capture)
            seconds = fit_guide(blob.guide, FitRequest(blob.model, rows, training, progress=False)).seconds
        wait(device)
        rate = 5 * 60 / (seconds.iloc[-1] - seconds.iloc[0])  # the first epoch holds the recording
        print(f"{name:>34} {rate:>8.0f} {rate / baseline:>6.1f} x")


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for category in (ConvergenceWarning, PoorFitWarning):  # fits are stopped early here to look at them
        warnings.simplefilter("ignore", category)
    if arguments.large:
        torch.set_num_threads(2)
        large()
        return
    blo, log = standard_log("cuda" if arguments.cuda else "cpu")
    print(log)
    if arguments.cuda:
        steps(blo, log, "cuda")
        return
    fits(blo, log)
    steps(blo, log, "cpu")
    noise(blo, log)


if __name__ == "__main__":
    main()
